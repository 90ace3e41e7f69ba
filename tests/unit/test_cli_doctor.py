# SPDX-License-Identifier: MIT
"""`cvm-harness doctor`: its exit code and last lines are the answer; its report can be replayed."""

import json
import resource
import tarfile
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from harness.cli.doctor import doctor
from harness.host import firmware
from harness.kernel.version import Version
from harness.qemu.source import read_recipe
from tests.unit.test_host_firmware import LAZY, PLAIN_IMAGE

HOSTS = Path(__file__).parent / "hosts"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CVM_HARNESS_CACHE", str(tmp_path / "cache"))


def ask(*arguments: str) -> Result:
    return CliRunner().invoke(doctor, arguments)


def test_a_host_that_can_says_how_many_guests() -> None:
    result = ask("--target=snp", f"--host={HOSTS / 'genoa-snp.json'}")
    assert result.exit_code == 0
    assert result.output.splitlines()[-1] == (
        "SEV-SNP guests run here: up to 43 guests of 16 GiB and 2 vCPUs at a time "
        "(memory 43, cores 96, ASIDs 97)"
    )


def test_a_host_that_cannot_says_why_and_how_to_mend_it() -> None:
    result = ask("--target=snp", f"--host={HOSTS / 'genoa-snp-off-in-bios.json'}")
    assert result.exit_code == 69
    assert "MISS snp: hardware: SNP set up by BIOS" in result.output
    assert "fix: in the BIOS set SMEE" in result.output
    assert "cannot run here" in result.output.splitlines()[-1]


def test_a_hardware_target_nobody_asked_for_is_a_skip() -> None:
    result = ask("--json", f"--host={HOSTS / 'nested-kvm-that-cannot-run-guests.json'}")
    report = json.loads(result.output)
    assert report["targets"]["snp"]["status"] == "SKIP"
    assert report["targets"]["tdx"]["status"] == "SKIP"
    hardware = [f for f in report["findings"] if f["target"] in ("snp", "tdx")]
    assert hardware
    assert not [f for f in hardware if f["status"] == "MISS"]
    emulated = [f for f in report["findings"] if f["target"] == "emulated"]
    assert {"name", "category", "status", "evidence", "hint"} <= emulated[0].keys()


def test_this_machine_is_diagnosed_within_two_seconds_of_work() -> None:
    def spent() -> float:
        uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(use.ru_utime + use.ru_stime for use in uses)

    before = spent()
    result = ask()
    assert spent() - before < 2
    assert len(result.output.splitlines()) > 10


def test_a_report_holds_the_host_and_the_run_but_no_keys(tmp_path: Path) -> None:
    run = tmp_path / "run-1"
    (run / "keys").mkdir(parents=True)
    (run / "keys/id_rsa").write_text("secret")
    (run / "run.json").write_text("{}")
    (run / "qemu.log").write_text("vm-type TDX not supported by KVM\n")
    recorded = HOSTS / "milan-snp.json"
    report = tmp_path / "report.tar.gz"
    result = ask("--target=snp", f"--host={recorded}", f"--report={report}", f"--run={run}")
    assert result.exit_code == 0
    with tarfile.open(report) as archive:
        names = archive.getnames()
        archive.extractall(tmp_path, filter="data")
    assert "cvm-report/runs/run-1/qemu.log" in names
    assert not [name for name in names if "key" in name]
    facts = json.loads((tmp_path / "cvm-report/facts.json").read_text())
    assert facts["snp_firmware"] == "1.55 build 21"
    again = ask("--target=snp", f"--host={tmp_path / 'cvm-report/host.json'}")
    assert again.output.splitlines()[-1] == result.output.splitlines()[-2]


def test_a_report_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    result = ask("--target=emulated", f"--report={tmp_path}/no/such/place.tar.gz")
    assert "cannot write the report" in str(result.exception)


def finding_of(name: str) -> dict[str, str]:
    findings = json.loads(ask("--json").output)["findings"]
    (found,) = [f for f in findings if f["name"] == name]
    return dict(found)


def own_qemu() -> dict[str, str]:
    """What the doctor says of the QEMU that emulates TDX and SNP."""
    return finding_of("QEMU that emulates TDX and SNP")


def test_firmware_under_tcg_is_what_is_here_or_to_be_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = tmp_path / "plain.fd"
    monkeypatch.setattr(firmware, "PLAIN_IMAGES", (plain,))
    monkeypatch.setattr(firmware, "descriptor_directories", lambda: [])
    missing = finding_of("firmware for SEV-SNP under TCG")
    assert missing["status"] == "SKIP"
    assert "fetched by apt" in missing["hint"]
    plain.write_bytes(LAZY + PLAIN_IMAGE)
    found = finding_of("firmware for SEV-SNP under TCG")
    assert found["status"] == "PASS"
    assert found["evidence"].startswith(str(plain))


def test_our_qemu_is_to_be_built_until_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.targets.doctor.check_qemu_tools", lambda: None)
    before = own_qemu()
    assert before["status"] == "SKIP"
    assert before["evidence"] == "not built yet"
    assert "cvm-harness build-qemu" in before["hint"]
    entry = tmp_path / "cache/entries/qemu/0123"
    entry.mkdir(parents=True)
    source = {"kind": "debian", "package": "qemu", "version": "1:10.0.13+ds-1", "suite": "trixie"}
    record = {"version": "10.0.13", "source": source, "recipe_digest": "of other patches"}
    (entry / "build.json").write_text(json.dumps(record))
    assert own_qemu()["evidence"] == "not built yet", "what is carried has changed since"
    record["recipe_digest"] = read_recipe(Version(10, 0, 13)).digest
    (entry / "build.json").write_text(json.dumps(record))
    after = own_qemu()
    assert after["status"] == "PASS"
    assert after["evidence"].startswith(str(entry))
    assert after["evidence"].endswith("10.0.13, built from qemu 1:10.0.13+ds-1 (trixie)")


def test_what_our_qemu_lacks_to_be_built_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.qemu.build.LIBRARIES", {"no-such-library >= 3": "libnone-dev"})
    finding = own_qemu()
    assert finding["status"] == "SKIP"
    assert finding["evidence"] == "cannot build QEMU: missing no-such-library >= 3"
    assert finding["hint"] == "apt-get install libnone-dev"
