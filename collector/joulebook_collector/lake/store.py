"""Where a lake lies: a folder or an object store, by pyarrow's file systems. A file is written once."""

from __future__ import annotations

import os
from pathlib import Path

from joulebook.errors import LedgerError
from pyarrow import ArrowInvalid, fs


class Store:
    """A lake's files, by paths below its root.

    cache: where files of an object store are kept to be read; a folder is read in place.
    """

    def __init__(self, files: fs.FileSystem, root: str, cache: Path) -> None:
        self._files, self._root, self._cache = files, root.rstrip("/"), cache
        self._local = isinstance(files, fs.LocalFileSystem)

    def put(self, path: str, content: bytes) -> None:
        """The file, whole and durable on return; another content of that name is replaced at one stroke."""
        full = self._full(path)
        try:
            if self._local:
                _put_local(Path(full), content)
                return
            with self._files.open_output_stream(full) as stream:  # an object appears when its upload ends
                stream.write(content)
        except OSError as error:
            raise LedgerError(
                f"cannot write {full}: {error}", "make room, or give the lake a place that you may write"
            ) from error

    def get(self, path: str) -> bytes | None:
        """Its content, None when there is no such file."""
        full = self._full(path)
        try:
            with self._files.open_input_stream(full) as stream:
                content: bytes = stream.read()
                return content
        except FileNotFoundError:
            return None
        except OSError as error:
            raise LedgerError(f"cannot read {full}: {error}", "see that the lake's storage answers") from error

    def list(self, below: str) -> list[str]:
        """Paths of all files below a folder, sorted; leftovers of writes that were cut off among them."""
        chosen = fs.FileSelector(self._full(below), recursive=True, allow_not_found=True)
        start = len(self._root) + 1
        return sorted(info.path[start:] for info in self._files.get_file_info(chosen) if info.type == fs.FileType.File)

    def remove(self, path: str) -> None:
        """Forget a file; it may be gone already."""
        try:
            self._files.delete_file(self._full(path))
        except FileNotFoundError:
            return

    def readable(self, path: str) -> str:
        """A local path at which the file can be read; an object is fetched once."""
        if self._local:
            return self._full(path)
        copy = self._cache / path
        if not copy.exists():
            content = self.get(path)
            if content is None:
                raise LedgerError(f"{self._full(path)} is missing", "restore the lake from a copy")
            _put_local(copy, content)
        return str(copy)

    def _full(self, path: str) -> str:
        return f"{self._root}/{path}"


def open_store(place: str, beside: Path) -> Store:
    """The store at a folder (relative ones lie in ``beside``) or a URI such as ``s3://bucket/prefix``.

    Raises LedgerError when the URI names nothing that pyarrow can write to.
    """
    if "://" not in place:
        return Store(fs.LocalFileSystem(), str(beside / place), beside)
    try:
        files, root = fs.FileSystem.from_uri(place)
    except (ArrowInvalid, OSError) as error:
        raise LedgerError(
            f"cannot open the lake {place}: {error}", "give a folder, or a URI that pyarrow.fs knows"
        ) from error
    return Store(files, root, beside / "lake-cache")


def _put_local(path: Path, content: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".unfinished")
    with unfinished.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(path)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    """The folder's entries, durable: its own entry too where it was made just now."""
    for place in (folder, folder.parent, folder.parent.parent, folder.parent.parent.parent):
        descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
