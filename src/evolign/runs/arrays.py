"""Checkpoints of evolution as bytes: an uncompressed zip of numeric arrays and JSON, without pickle."""

import json
import zipfile
import zlib
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import numpy as np

from evolign import untrusted

STATE = "state_json"
UNREADABLE = (
    OSError, ValueError, KeyError, EOFError, RuntimeError, MemoryError, TypeError, AttributeError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What numpy, zipfile and json raise on a damaged file, whatever its headers claim."""


def pack(saved: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> bytes:
    """JSON-able values and arrays in one file."""
    text = np.frombuffer(json.dumps({**saved, "arrays": sorted(arrays)}).encode(), dtype=np.uint8)
    buffer = BytesIO()
    np.savez(buffer, allow_pickle=False, **{STATE: text, **arrays})
    return buffer.getvalue()


def unpack(data: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What `pack` was given. Raises one of `UNREADABLE` for anything else."""
    with zipfile.ZipFile(BytesIO(data)) as file:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in file.infolist()):
            raise ValueError("it is compressed")  # a few bytes could fill the memory
    with np.load(BytesIO(data), allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    saved = untrusted.json_object(arrays.pop(STATE).tobytes())
    if saved.pop("arrays") != sorted(arrays):
        raise ValueError("arrays are missing")  # zip guards what it lists, not the list
    return saved, arrays
