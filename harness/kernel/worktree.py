# SPDX-License-Identifier: MIT
"""A build's own copy of the source, kept between builds with its objects, and what runs in it."""

import contextlib
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from harness.base.guarded import run_guarded
from harness.base.progress import Progress, silent
from harness.base.reader import read_json
from harness.base.status import HostError, UsageError
from harness.base.store import Store
from harness.kernel.tree import SourceTree, blob_id, put_file, write_json

Overlay = Mapping[str, tuple[str, bytes] | None]
"""What patches made of some files: path -> (mode, content), None for a file they removed."""
_TAIL_LINES = 1000
"""How much of a build's output is searched for what went wrong."""


@dataclass(frozen=True)
class WorkTree:
    """`root` holds the copy, its manifest and the marks of its last build. Hold its lock."""

    root: Path

    @property
    def source(self) -> Path:
        return self.root / "source"

    @property
    def objects(self) -> Path:
        """The output directory. Inside the source, because kbuild then uses relative paths
        ("..", Makefile: srctree), which keeps objects and ccache's keys free of this path."""
        return self.source / "obj"

    def sync(self, tree: SourceTree, overlay: Overlay, progress: Progress = silent) -> int:
        """Make the copy hold `tree` with `overlay` over it; the number of files touched.

        make decides by modification times, so a file is written only when its content differs from
        what the copy holds: after a patch to one file, one file is compiled.
        """
        wanted = dict(tree.manifest)
        for path, patched in overlay.items():
            if patched is None:
                wanted.pop(path, None)
            else:
                wanted[path] = f"{patched[0]} {blob_id(patched[1])}"
        try:
            held = read_json(self.root / "manifest.json", dict[str, str])
        except UsageError:
            shutil.rmtree(self.source, ignore_errors=True)
            held = {}
        changed = [path for path in wanted if held.get(path) != wanted[path]]
        removed = [path for path in held if path not in wanted]
        if not changed and not removed:
            return 0
        # Files about to change are marked unknown first: a killed sync is then taken up rightly.
        write_json(self.root / "manifest.json", {**held, **dict.fromkeys(changed, "")})
        for path in removed:
            _remove(self.source, path)
        self._write(tree, overlay, changed, not held, progress)
        write_json(self.root / "manifest.json", wanted)
        return len(changed) + len(removed)

    def _write(
        self, tree: SourceTree, overlay: Overlay, changed: list[str], link: bool, progress: Progress
    ) -> None:
        plain = []
        for path in changed:
            patched = overlay.get(path)
            if patched:
                put_file(self.source / path, *patched)
            # A linked file keeps its old time, which only a tree without objects may have.
            elif not (link and tree.linkable and _link(tree.linkable / path, self.source / path)):
                plain.append(path)
        for count, (path, data) in enumerate(tree.read(plain)):
            mode, _, name = tree.manifest[path].partition(" ")
            if len(name) == 40 and blob_id(data) != name:
                raise HostError(
                    f"{path} changed while the source was being copied",
                    hint="run again once the tree is left alone",
                )
            put_file(self.source / path, mode, data)
            if count % 500 == 0:
                progress("source", count, len(plain), "copying the source")

    @property
    def unfinished(self) -> Path:
        """Exists while make runs; left behind only if make was killed outright."""
        return self.root / "unfinished"

    def prepare_objects(self) -> bool:
        """Make the output directory ready; whether it starts empty.

        A compiler killed in mid-write leaves a young, broken object beside the command file of
        the build before, and make would take it for finished: such a tree is thrown away.
        (Ctrl-C is orderly: make removes its unfinished targets.)
        """
        if self.unfinished.exists():
            shutil.rmtree(self.objects, ignore_errors=True)
            self.unfinished.unlink()
        self.objects.mkdir(parents=True, exist_ok=True)
        return not (self.objects / ".config").exists()


@contextlib.contextmanager
def open_work(name: str, store: Store, progress: Progress = silent) -> Iterator[WorkTree]:
    """The work tree called `name`, locked."""
    note = "another process builds from the same tree"
    with store.lock(f"work-{name}", waiting=lambda: progress("wait", 0, None, note)):
        yield WorkTree(store.work(name))


@dataclass(frozen=True)
class BuildRunner:
    """Runs a build's commands; what they print goes to its log."""

    log: TextIO
    cwd: Path
    environment: Mapping[str, str]
    unfinished: Path
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=_TAIL_LINES))

    def say(self, text: str) -> None:
        self.log.write(text + "\n")
        self.tail.append(text)

    def __call__(
        self,
        argv: list[str],
        line: Callable[[str], None] = lambda text: None,
        deadline_s: float | None = None,
    ) -> int:
        """Run `argv` to its end and return its exit code; `line` also gets what it prints."""

        def each(text: str) -> None:
            self.say(text)
            line(text)

        return run_guarded(
            argv,
            cwd=self.cwd,
            env=self.environment,
            line=each,
            unfinished=self.unfinished,
            deadline_s=deadline_s,
        )


def _link(origin: Path, target: Path) -> bool:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.unlink(missing_ok=True)
        os.link(origin, target, follow_symlinks=False)
    except OSError:  # another file system, or too many links
        return False
    return True


def _remove(root: Path, path: str) -> None:
    (root / path).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not empty: the usual end
        for parent in (root / path).parents:
            if parent == root:
                break
            parent.rmdir()
