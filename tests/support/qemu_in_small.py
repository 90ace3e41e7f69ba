# SPDX-License-Identifier: MIT
"""A QEMU source that configures and builds in a moment, with the real ninja.

Its "compiler" copies, takes "error" in a file for an error, and appends the name of what it
compiled to the file $TALLY. The "binary" is a shell script that says of itself what QEMU would.
"""

import io
import tarfile
from pathlib import Path

CONFIGURE = r"""#!/bin/sh
for word; do
	case $word in --python=*) python=${word#*=} ;; esac
done
source=${0%/*}
if [ -e "$source/broken-configure" ]; then
	echo '../meson.build:7:2: ERROR: Dependency "glib-2.0" not found'
	exit 1
fi
echo configure >>"$TALLY"
mkdir -p pyvenv/bin
printf '#!/bin/sh\nexec "%s" "$@"\n' "$python" >pyvenv/bin/python3
chmod +x pyvenv/bin/python3
cat >build.ninja <<END
rule cc
  command = echo \$in >>\$\$TALLY; $source/check \$in && cp \$in \$out
  description = Compiling C object \$out
rule link
  command = cat \$in >\$out && chmod +x \$out
  description = Linking target \$out
build a.c.o: cc $source/target/i386/cpu.c
build b.c.o: cc $source/configs/devices/x86_64-softmmu/cvm-harness.mak
build qemu-system-x86_64: link a.c.o b.c.o
END
"""

MAIN = """#!/bin/sh
case $* in
*--version*) echo "QEMU emulator version 10.0.13" ;;
*) printf '  tdx-tcg-guest\\n  snp-tcg-guest\\n' ;;
esac
exit
"""

CHECK = """#!/bin/sh
! grep -Hn error "$1" | sed 's/:error.*/: error: bad/' | grep .
"""

FILES = {
    "check": CHECK,
    "VERSION": "10.0.13\n",
    "configure": CONFIGURE,
    "meson.build": "project('qemu')\n",
    "target/i386/cpu.c": MAIN,
}

PROGRAMS = ("configure", "check")

SERIES = """
[[release]]
name = "10.0"
since = "10.0.13"
before = "10.1"

[[patch]]
name = "build"
summary = "says what it is for"
"""

PATCH = """\
--- a/meson.build
+++ b/meson.build
@@ -1 +1,2 @@
 project('qemu')
+# ours
"""


def write_source(root: Path, **changed: str) -> Path:
    """The source in a directory; `changed` files have another content."""
    for path, text in {**FILES, **changed}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    for program in PROGRAMS:
        (root / program).chmod(0o755)
    return root


def tarball(version: str = "10.0.13") -> bytes:
    """The source as a release is packed; xz."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz") as tar:
        for path, text in {**FILES, "VERSION": version + "\n", "roms/x": "firmware"}.items():
            entry = tarfile.TarInfo(f"qemu-{version}/{path}")
            entry.size = len(text)
            entry.mode = 0o755 if path in PROGRAMS else 0o644
            tar.addfile(entry, io.BytesIO(text.encode()))
    return packed.getvalue()


def write_carried(root: Path) -> Path:
    """What is carried for it, as guest-images/qemu has it."""
    (root / "patches/10.0").mkdir(parents=True)
    (root / "series.toml").write_text(SERIES)
    (root / "patches/10.0/0001-build.patch").write_text(PATCH)
    (root / "devices.mak").write_text("CONFIG_Q35=y\n")
    (root / "src/build/target/i386/cgs").mkdir(parents=True)
    (root / "src/build/target/i386/cgs/cgs.c").write_text("/* ours */\n")
    return root
