"""From the name a user gives to files on this machine: a hub id, a local folder or a GGUF file.

Knows files and their content hash; opens no model.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from mogu.errors import MoguError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_HUB_FILES = ["*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken", "*.py", "model*.safetensors"]
_BLOCK = 64 * 1024
_BLOCKS = 64


@dataclass(frozen=True)
class Source:
    """The files of one checkpoint.

    Attributes:
        folder: Where configuration, tokenizer and weights are.
        weights: The weights files in name order: safetensors, or else pytorch ones, or else one GGUF file.
        revision: The hub's commit hash; None for what came from a local path.
    """

    folder: Path
    weights: list[Path]
    revision: str | None = None

    @property
    def gguf(self) -> Path | None:
        """The GGUF file, where that is what the weights are in."""
        return self.weights[0] if self.weights[0].suffix == ".gguf" else None

    def fingerprint(self) -> str:
        """Hash the content: sha256 over the size and all of each file, or 64 evenly spread blocks of 64 KiB of a
        file that is larger than these."""
        digest = hashlib.sha256()
        for path in self.weights:
            size = path.stat().st_size
            digest.update(size.to_bytes(8, "little"))
            with path.open("rb") as file:
                if size <= _BLOCK * _BLOCKS:
                    digest.update(file.read())
                    continue
                for block in range(_BLOCKS):
                    file.seek(block * (size - _BLOCK) // (_BLOCKS - 1))
                    digest.update(file.read(_BLOCK))
        return digest.hexdigest()


def find_source(name: str | Path, revision: str | None = None) -> Source:
    """Find a checkpoint's files, downloading them from the hub where the name is no local path.

    Args:
        name: A hub id, a local folder or a `.gguf` file.
        revision: Branch, tag or commit on the hub.

    Raises:
        MoguError: If there is no such path or repository, the hub does not answer, or the files are no model.
    """
    path = Path(name).expanduser()
    if not path.exists():
        if not _HUB_ID.fullmatch(str(name)) or path.suffix == ".gguf":
            raise MoguError(f"no such file or folder: {name}; give a hub id, a model folder or a .gguf file")
        return _download(str(name), revision)
    if revision is not None:
        raise MoguError(f"{name} is a local path: a revision ({revision}) can only be given with a hub id")
    if path.is_dir():
        return Source(path, _weights(path, name))
    if path.suffix != ".gguf":
        raise MoguError(f"{name} is a file but no .gguf; give a model folder, a .gguf file or a hub id")
    return Source(path.parent, [path])


def _weights(folder: Path, name: str | Path) -> list[Path]:
    for pattern in ("model*.safetensors", "pytorch_model*.bin"):
        if found := sorted(folder.glob(pattern)):
            if not (folder / "config.json").is_file():
                raise MoguError(f"{name} has weights but no config.json: it is no complete model folder")
            return found
    found = sorted(folder.glob("*.gguf"))
    if len(found) > 1:
        raise MoguError(f"{name} holds several GGUF files, name one: {', '.join(x.name for x in found)}")
    if not found:
        raise MoguError(f"{name} holds no weights (model*.safetensors, pytorch_model*.bin or one .gguf file)")
    return found


def _download(name: str, revision: str | None) -> Source:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    def fetch(patterns: list[str]) -> Path:
        return Path(
            snapshot_download(name, revision=revision, allow_patterns=patterns, ignore_patterns="*/*")
        )

    try:
        folder = fetch(_HUB_FILES)
        if not any(folder.glob("model*.safetensors")):
            folder = fetch([*_HUB_FILES, "pytorch_model*.bin"])
    except GatedRepoError as error:
        raise MoguError(
            f"{name} is gated: accept its terms on the hub and log in with `hf auth login`"
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise MoguError(f"{name} is neither a local path nor a model on the hub that you may read") from error
    except RevisionNotFoundError as error:
        raise MoguError(f"{name} has no revision {revision} on the hub") from error
    # Every transport has errors of its own: no network, a proxy, a timeout, offline without a cached copy.
    except Exception as error:
        raise MoguError(
            f"{name} is no local path, and the hub cannot be reached ({type(error).__name__}): "
            "give a local folder"
        ) from error
    return Source(folder, _weights(folder, name), revision=folder.name)
