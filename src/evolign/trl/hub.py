"""Uploading the result of an `EvolutionTrainer` to a hub."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard

from evolign.trl.config import EvolutionConfig


class Repository:
    """A repository of models; it is private unless `args` say otherwise. Tokens stay in memory."""

    def __init__(self, args: EvolutionConfig, token: str | None = None) -> None:
        self._api = HfApi(token=token or args.hub_token)
        self._revision = args.hub_revision
        self.name = self._api.create_repo(
            args.hub_model_id or Path(args.output_dir).absolute().name,
            private=args.hub_private_repo is not False,
            exist_ok=True,
        ).repo_id

    def upload(self, folder: Path, message: str, revision: str | None) -> Any:
        """Upload all files of `folder` in one commit, and return its CommitInfo."""
        revision = revision or self._revision
        if revision is not None:
            self._api.create_branch(self.name, branch=revision, exist_ok=True)
        return self._api.upload_folder(
            repo_id=self.name, folder_path=folder, commit_message=message, revision=revision
        )

    def later(self, push: Callable[[], Any]) -> Any:
        """The future of `push`, which runs in the background."""
        return self._api.run_as_future(push)


def complete_card(path: Path, datasets: Sequence[str], tags: Sequence[str]) -> None:
    """Add data sets and tags to the metadata of the model card `path`."""
    card = ModelCard.load(path, ignore_metadata_errors=True)
    if datasets:
        card.data.datasets = [*datasets]
    card.data.tags = [*(card.data.tags or []), *tags]
    card.save(path)
