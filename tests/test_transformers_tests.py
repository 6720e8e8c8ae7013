"""What happens where transformers' own tests cannot be fetched."""

import subprocess
import tarfile

import pytest
import transformers_tests

ERRORS = [
    subprocess.CalledProcessError(1, "pip", stderr="ERROR: no network\nmore"),
    tarfile.ReadError("not a gzip file"),
    KeyError("tests/test_modeling_common.py"),
    PermissionError("read-only"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_without_them_tests_are_skipped_or_where_all_are_required_fail(error, monkeypatch):
    def fail():
        raise error

    monkeypatch.setattr(transformers_tests, "_fetch", fail)
    monkeypatch.delenv("E2EVIT_REQUIRE", raising=False)
    with pytest.raises(
        pytest.skip.Exception, match=r"needs the source distribution of transformers .* from PyPI: "
    ) as skip:
        transformers_tests.load("modeling")
    assert "\n" not in str(skip.value)
    monkeypatch.setenv("E2EVIT_REQUIRE", "all")
    with pytest.raises(RuntimeError, match="needs the source distribution"):
        transformers_tests.load("modeling")


def test_only_the_named_files_are_unpacked(tmp_path):
    release = "transformers-0.0"
    with tarfile.open(tmp_path / "archive.tar.gz", "w:gz") as archive:
        for name in [*transformers_tests.FILES, "../../outside.py"]:
            path = tmp_path / "source.py"
            path.write_text(f"# {name}")
            archive.add(path, f"{release}/tests/{name}")
    transformers_tests._unpack(tmp_path / "archive.tar.gz", release, tmp_path / "unpacked")
    written = {path.name for path in (tmp_path / "unpacked" / transformers_tests.PACKAGE).iterdir()}
    assert written == {"__init__.py", *transformers_tests.FILES}
