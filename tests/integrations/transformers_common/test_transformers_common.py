"""The common tests of transformers on STU models: nothing fails, and what is skipped is what is documented."""

import os
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

transformers = pytest.importorskip("transformers")

HERE = Path(__file__).parent
KEPT = HERE.parents[2] / "build" / "transformers-common"


def pip(*arguments):
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"pip {arguments[0]} could not get what the tests need: {done.stderr.strip().splitlines()[-1:]}")


def sources():
    """The folder with the tests: TRANSFORMERS_SOURCES, a checkout of the installed version, or its source distribution."""
    given = os.environ.get("TRANSFORMERS_SOURCES")
    if given:
        return Path(given)
    name = f"transformers-{transformers.__version__}"
    if not (KEPT / name / "tests" / "__init__.py").exists():
        pip("download", "--no-deps", "--no-binary", "transformers", "--dest", KEPT, name.replace("-", "=="))
        with tarfile.open(KEPT / f"{name}.tar.gz") as archive:
            members = [member for member in archive if member.name.startswith(f"{name}/tests/")]
            archive.extractall(KEPT, members, filter="data")
        (KEPT / name / "tests" / "__init__.py").touch()
    return KEPT / name


def results(folder, tmp_path):
    """(class, test) to "passed" or "skipped"; the output where anything fails."""
    packages = KEPT / "packages"
    if not (packages / "parameterized").exists():
        pip("install", "--no-deps", "--target", packages, "parameterized==0.9.0")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    report = tmp_path / "report.xml"
    paths = [str(folder), str(HERE), *(path for path in sys.path if path), str(packages)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1", "RUN_SLOW": "1"}
    command = [sys.executable, "-m", "pytest", "-c", str(tmp_path / "pytest.ini"), f"--rootdir={tmp_path}", "--tb=short", "-q"]
    command += ["--import-mode=importlib", f"--confcutdir={HERE}", "-p", "no:cacheprovider", "-W", "ignore"]
    command += [f"--junitxml={report}", str(HERE / "suite.py")]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
    cases = ElementTree.parse(report).getroot().iter("testcase")
    return {
        (case.get("classname").rpartition(".")[2], case.get("name")): "passed" if case.find("skipped") is None else "skipped"
        for case in cases
    }


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_common_tests_of_the_library(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(HERE)
    import skips

    found = results(sources(), tmp_path)
    assert {name for name, _ in found} == {"TensordotTest", "FullTest", "HybridTest"}
    print({outcome: list(found.values()).count(outcome) for outcome in ("passed", "skipped")})
    for (test_class, test), outcome in found.items():
        where = f"{test_class}.{test}"
        if outcome == "skipped":
            assert skips.must_skip(test_class, test) or skips.may_skip(test), f"{where} is skipped"
        else:
            assert not skips.must_skip(test_class, test), f"{where} is documented as skipped, but runs"
    assert list(found.values()).count("passed") > 200
