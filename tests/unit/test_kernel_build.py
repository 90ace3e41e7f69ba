# SPDX-License-Identifier: MIT
"""build_kernel end to end, over a source whose make does in a moment what kbuild does."""

import json
import multiprocessing
import os
from dataclasses import replace
from pathlib import Path

import pytest

from harness.base.status import UsageError
from harness.base.store import Store
from harness.kernel.build import build_kernel, compile_files
from harness.kernel.kernel import KernelRequest
from harness.kernel.make import KernelBuildError, Toolchain

# A kernel's Makefile in small: allnoconfig drops what it does not know (FORBIDDEN), one object
# per C file is made only when that file is newer, and "error" in a file is a compiler's error.
MAKEFILE = r"""
VERSION = 6
PATCHLEVEL = 12
SUBLEVEL = 5

B = $(O)/arch/x86/boot
allnoconfig:
	grep -v FORBIDDEN $(KCONFIG_ALLCONFIG) > $(O)/$(KCONFIG_CONFIG)

objects := $(patsubst mm/%.c,$(O)/%.o,$(wildcard mm/*.c))

$(O)/%.o: mm/%.c $(O)/.config
	@echo "  CC      mm/$*.o"
	@if grep -q 'error' $<; then echo "../$<:3:1: error: bad"; exit 1; fi
	@cp $< $@

# A single target, as kbuild has them.
mm/%.o: mm/%.c
	@echo "  CC      mm/$*.o"
	@if grep -q 'odd' $<; then echo "../$<:3:1: warning: odd [-Wodd]"; fi
	@cp $< $(O)/mm/$*.o

bzImage: $(objects)
	@mkdir -p $(B) $(O)/include/config
	@cat $(objects) > $(B)/bzImage
	@echo symbols > $(O)/System.map
	@echo elf > $(O)/vmlinux
	@echo "6.12.5$(LOCALVERSION)" > $(O)/include/config/kernel.release
	@echo "$(KBUILD_BUILD_USER)" >> $(TALLY)
"""


@pytest.fixture(autouse=True)
def toolchain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.kernel.build.check_tools", lambda: None)
    monkeypatch.setattr(Toolchain, "detect", lambda: Toolchain("gcc 1", "ld 1"))


@pytest.fixture
def tally(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that gets a line for every finished make."""
    monkeypatch.setenv("TALLY", str(tmp_path / "tally"))
    return tmp_path / "tally"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "linux"
    for path, text in {
        "Makefile": MAKEFILE,
        "Kconfig": 'config FORBIDDEN\n\tbool "x"\n\tdepends on NET\n',
        "arch/x86/Kconfig": "",
        "mm/a.c": "1\n2\n3\n",
        "mm/b.c": "b\n",
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


@pytest.fixture
def fragment(tmp_path: Path) -> str:
    file = tmp_path / "own.config"
    file.write_text("CONFIG_A=y\n# [since 7.0]\nCONFIG_NEW=y\n")
    return str(file)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_a_kernel_with_everything_recorded(
    source: Path, fragment: str, store: Store, tally: Path
) -> None:
    request = KernelRequest(str(source), (fragment,), settings=("B=7",), carried=False)
    steps: list[tuple[str, int, int | None]] = []
    kernel = build_kernel(
        request, store, lambda stage, done, total, note: steps.append((stage, done, total))
    )
    assert kernel.bzimage.read_text() == "1\n2\n3\nb\n"
    assert kernel.version == "6.12.5"
    assert kernel.release == f"6.12.5-cvm-{kernel.digest[:8]}"
    assert kernel.config
    assert kernel.config.read_text() == "CONFIG_A=y\nCONFIG_B=7\n"
    assert kernel.has("A") is True
    assert kernel.has("NEW") is False
    assert kernel.provenance["compiler"] == "gcc 1"
    assert (kernel.bzimage.parent / "build.log").read_text().count("  CC ") == 2
    assert [step for step in steps if step[0] == "compile"][-1] == ("compile", 2, 1600)
    assert tally.read_text() == "cvm-harness\n"
    assert not (source / ".config").exists(), "the user's tree was written"

    assert build_kernel(request, store) == kernel
    assert len(tally.read_text().splitlines()) == 1, "built again from the same inputs"


def test_only_what_changed_is_compiled(
    source: Path, fragment: str, store: Store, tally: Path
) -> None:
    request = KernelRequest(str(source), (fragment,), carried=False)
    first = build_kernel(request, store)
    (source / "mm/a.c").write_text("changed\n")
    second = build_kernel(request, store)
    assert second.digest != first.digest
    assert second.bzimage.read_text() == "changed\nb\n"
    assert second.provenance["objects_compiled"] == 1
    assert first.bzimage.read_text() == "1\n2\n3\nb\n"
    # and back, which is the first kernel again, from the store
    (source / "mm/a.c").write_text("1\n2\n3\n")
    assert build_kernel(request, store) == first


def test_every_input_is_in_the_digest(
    source: Path, fragment: str, store: Store, tally: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = KernelRequest(str(source), (fragment,), carried=False)
    digests = [build_kernel(request, store).digest]
    with_setting = KernelRequest(str(source), (fragment,), settings=("C=y",), carried=False)
    digests.append(build_kernel(with_setting, store).digest)
    monkeypatch.setattr(Toolchain, "detect", lambda: Toolchain("gcc 2", "ld 1"))
    digests.append(build_kernel(request, store).digest)
    (source / "Kconfig").write_text("# other\n")
    digests.append(build_kernel(request, store).digest)
    assert len(set(digests)) == 4


def test_a_patch_of_the_user(
    source: Path, fragment: str, store: Store, tmp_path: Path, tally: Path
) -> None:
    patch = tmp_path / "my.patch"
    patch.write_text("--- a/mm/a.c\n+++ b/mm/a.c\n@@ -1,3 +1,3 @@\n 1\n-2\n+two\n 3\n")
    request = KernelRequest(str(source), (fragment,), (patch,), carried=False)
    kernel = build_kernel(request, store)
    assert kernel.bzimage.read_text() == "1\ntwo\n3\nb\n"
    assert kernel.provenance["patches_already_present"] == []
    (source / "mm/a.c").write_text("1\ntwo\n3\n")
    again = build_kernel(request, store)
    assert again.provenance["patches_already_present"] == ["my.patch"]
    assert again.bzimage.read_text() == "1\ntwo\n3\nb\n"


def test_a_setting_that_does_not_survive(
    source: Path, fragment: str, store: Store, tally: Path
) -> None:
    request = KernelRequest(str(source), (fragment,), settings=("FORBIDDEN=y",), carried=False)
    with pytest.raises(UsageError) as caught:
        build_kernel(request, store)
    assert "FORBIDDEN: asked y (--set), got n" in caught.value.cause
    assert "    depends on NET (Kconfig:1); not set: NET" in caught.value.details
    assert store.entries() == []


def test_a_source_that_does_not_compile(
    source: Path, fragment: str, store: Store, tally: Path
) -> None:
    (source / "mm/a.c").write_text("error\n")
    request = KernelRequest(str(source), (fragment,), carried=False)
    with pytest.raises(KernelBuildError) as caught:
        build_kernel(request, store)
    assert caught.value.cause == "the kernel does not build: mm/a.c:3:1: error: bad"
    assert "error: bad" in Path(caught.value.hint.removeprefix("full log: ")).read_text()
    assert store.entries() == []
    (source / "mm/a.c").write_text("good\n")
    assert build_kernel(request, store).bzimage.read_text() == "good\nb\n"


def test_ctrl_c_leaves_no_half_entry(
    source: Path, fragment: str, store: Store, tally: Path
) -> None:
    def interrupt(stage: str, done: int, total: int | None, note: str) -> None:
        if stage == "compile" and done:
            raise KeyboardInterrupt

    request = KernelRequest(str(source), (fragment,), carried=False)
    with pytest.raises(KeyboardInterrupt):
        build_kernel(request, store, interrupt)
    assert store.entries() == []
    assert list((store.root / "tmp").iterdir()) == []
    assert build_kernel(request, store).bzimage.read_text() == "1\n2\n3\nb\n"


def _ask(request: KernelRequest, root: Path) -> str:
    return build_kernel(request, Store(root)).digest


def test_built_once_however_many_processes_ask(
    source: Path, fragment: str, store: Store, tally: Path
) -> None:
    request = KernelRequest(str(source), (fragment,), carried=False)
    # fork: the children inherit the replaced toolchain
    with multiprocessing.get_context("fork").Pool(4) as pool:
        digests = pool.starmap(_ask, [(request, store.root)] * 4)
    assert len(set(digests)) == 1
    assert len(tally.read_text().splitlines()) == 1


def test_a_cache_path_that_make_refuses(
    source: Path, fragment: str, tmp_path: Path, tally: Path
) -> None:
    request = KernelRequest(str(source), (fragment,), carried=False)
    with pytest.raises(Exception, match="blank or colon") as caught:
        build_kernel(request, Store(tmp_path / "with blank"))
    assert "CVM_HARNESS_CACHE" in getattr(caught.value, "hint", "")


def test_the_record_is_json_and_names_no_user(
    source: Path, fragment: str, store: Store, tally: Path
) -> None:
    kernel = build_kernel(KernelRequest(str(source), (fragment,), carried=False), store)
    record = json.loads((kernel.bzimage.parent / "build.json").read_text())
    assert record == kernel.provenance
    assert record["source"] == {"kind": "directory", "path": os.fspath(source)}


def test_single_files_are_compiled_anew_and_those_not_in_the_configuration_left_out(
    source: Path, fragment: str, store: Store, tally: Path
) -> None:
    (source / "mm/a.c").write_text("odd\n")
    request = KernelRequest(str(source), (fragment,), carried=False)
    assert compile_files(request, ["mm/a.c"], store) == {}, "nothing has been built"
    build_kernel(request, store)
    (objects,) = store.root.glob("work/kernel-*/source/obj")
    (objects / "mm").mkdir()
    (objects / "mm/a.o").write_text("old")
    printed = compile_files(request, ["mm/a.c", "mm/b.c"], store)
    assert printed == {
        "mm/a.c": ["  CC      mm/a.o", "../mm/a.c:3:1: warning: odd [-Wodd]"],
    }
    assert (objects / "mm/a.o").read_text() == "odd\n"
    assert compile_files(request, ["mm/a.c"], store) == {"mm/a.c": printed["mm/a.c"]}


def test_a_version_that_no_patches_are_carried_for_is_built_as_it_is(
    source: Path, fragment: str, store: Store, tally: Path, tmp_path: Path
) -> None:
    makefile = source / "Makefile"
    makefile.write_text(makefile.read_text().replace("PATCHLEVEL = 12", "PATCHLEVEL = 15"))
    hooks = tmp_path / "hooks.config"
    hooks.write_text("CONFIG_HOOKS=y\n")
    needed = KernelRequest(str(source), (fragment,))
    with pytest.raises(UsageError, match=r"no carried patches for kernel 6\.15\.5"):
        build_kernel(needed, store)
    kernel = build_kernel(replace(needed, carried_fragments=(str(hooks),)), store)
    assert kernel.has("A")
    assert not kernel.has("HOOKS")
    assert kernel.provenance["patches"] == []
    assert kernel.provenance["fragments"] == [fragment]
