"""`evolign compare`: one HTML page and one Markdown file about several run directories."""

from pathlib import Path

from evolign import disk
from evolign.comparison.loading import Runs
from evolign.comparison.markdown import markdown as as_markdown
from evolign.comparison.page import page
from evolign.comparison.report import Comparison, build
from evolign.errors import RunError


def compare(
    runs: Runs,
    out: str | Path | None = "report.html",
    *,
    markdown: str | Path | None = None,
    target: float | None = None,
    metric: str | None = None,
) -> Comparison:
    """Compare finished runs: write a self-contained HTML page to `out` and a Markdown file to `markdown`.

        evolign.compare(["runs/essa-0", "runs/essa-1", "runs/grpo-*"], out="report.html")
        evolign.compare({"ESSA": ["runs/a", "runs/b"], "GRPO": "runs/grpo-*"}, markdown="report.md")

    Runs that differ only in the seed are one entry; a label (`LABEL=PATH`, or a mapping's key) makes its
    runs one entry. `metric` is that of the curves, for example "accuracy_sampled" (default: the one that most
    runs were selected by); `target` is a value of it (default: 95 % of the best entry's last validation, mean
    over seeds). None as `out` writes no page. The run directories are only read.

    Raises RunError where no run can be compared or a file cannot be written, ConfigError for an unknown
    metric.
    """
    for path, suffix in ((out, ".html"), (markdown, ".md")):
        if path is not None and Path(path).suffix != suffix:
            raise RunError(
                f"the report {str(path)!r} must end in {suffix}, so that no other file is replaced"
            )
    comparison = build(runs, metric, target)
    if out is not None:
        _write(Path(out).expanduser(), page(comparison))
    if markdown is not None:
        _write(Path(markdown).expanduser(), as_markdown(comparison))
    return comparison


def _write(path: Path, text: str) -> None:
    try:
        disk.write(path, text)
    except OSError as error:
        raise RunError(f"cannot write the report {str(path)!r}: {error.strerror or error}") from error
