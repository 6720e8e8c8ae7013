"""Where the public files lie: what the schemas say, and which addresses are opened."""

from fnmatch import fnmatch

import pytest

from e2evit.cli.command import main
from e2evit.data import load_e2e
from e2evit.data.addresses import address_of, check_address, check_base
from e2evit.data.download import find_download, known_downloads
from e2evit.data.schema import parse_schema


def test_every_public_address(tmp_path):
    assert {"labelled", "unlabelled", "top_mass", "quark_gluon", "electron_photon", "hls4ml"} <= set(known_downloads())
    for name, (schema, shares) in known_downloads().items():
        assert name.startswith(schema.name)
        assert "downloads" not in schema.to_dict(), "rows are the same wherever files come from"
        for share in shares:
            assert share.unverified
            assert all(url.startswith("https://") for url in share.urls)
            assert all(fnmatch(file, schema.pattern) or file.endswith(".tar.gz") for file in share.files)
    with pytest.raises(ValueError, match=r"There is no download 'labeled'; did you mean labelled\?"):
        find_download("labeled")
    with pytest.raises(ValueError, match="There is no download 'x'; known ones: electron_photon, hls4ml, labelled"):
        find_download("x")
    with pytest.raises(ValueError, match=r"No address of the files of 'boosted_top' is known\. Source: the producers"):
        find_download("boosted_top")
    with pytest.raises(FileNotFoundError, match="`e2evit download labelled` or `e2evit download labelled_with_mass`"):
        load_e2e("labelled", tmp_path)


def test_the_listing(capsys):
    main(["download"])
    listing = capsys.readouterr().out
    for part in (*known_downloads(), "_Unlabelled.h5 (30 GB)", "(size unknown)", "unverified: the addresses"):
        assert part in listing


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["labelled"], 2, "the following arguments are required: --output_dir"),
        (["labelled", "--output_dir", "{}", "--url_base", "ftp://x"], 1, "ftp://x is refused: only https://"),
        (["labelled", "--output_dir", "{}", "--files", "x.h5"], 1, "labelled has no x.h5; its files: Dataset_"),
        (["labelled", "--output_dir", "{}", "--schema", "x.yaml"], 1, "There is no schema file x.yaml."),
    ],
)
def test_mistakes_end_in_one_line_and_write_nothing(arguments, code, message, tmp_path, capsys):
    with pytest.raises(SystemExit, match=str(code)):
        main(["download", *(word.format(tmp_path / "data") for word in arguments)])
    error = capsys.readouterr().err
    assert error.startswith(f"e2evit download: {message}")
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_addresses():
    files = "https://cernbox.cern.ch/remote.php/dav/public-files/AbC1/a.h5"
    for share in ("s/AbC1", "index.php/s/AbC1", "s/AbC1/", "files/public/show/AbC1"):
        assert address_of(f"https://cernbox.cern.ch/{share}", "a.h5") == files
    assert address_of("https://example.org/x/", "a.h5") == "https://example.org/x/a.h5"
    for address in ("https://example.org/a", "http://localhost:80/a", "http://127.0.0.1/a", "http://[::1]/a"):
        assert check_base(address) == address
    for address in ("http://example.org/a", "ftp://localhost/a", "/etc", "https://", "http://127.0.0.1.example.org"):
        with pytest.raises(ValueError, match="is refused: only https:// addresses"):
            check_address(address)
    with pytest.raises(ValueError, match="is not a valid address"):
        check_address("https://example.org:many/a")
    with pytest.raises(ValueError, match=r"example\.org contains a user name or password") as told:
        check_address("https://me:secret@example.org/a")
    assert "secret" not in str(told.value)
    with pytest.raises(ValueError, match="leave out what follows"):
        check_base("https://example.org/a?signature=1")


@pytest.mark.parametrize(
    ("share", "message"),
    [
        ({"files": {"../a.h5": None}}, r"`downloads\.mine\.0\.files` has the key '\.\./a\.h5': .*and no folder"),
        ({"files": {"a.h5.part": None}}, "has the key 'a.h5.part'"),
        ({"files": {"a.h5": -1}}, r"`downloads\.mine\.0\.files\.a\.h5`: input should be greater than 0"),
        ({"urls": ["http://example.org"]}, r"`downloads\.mine\.0\.urls\.0`: .* is refused"),
        ({"urls": []}, r"`downloads\.mine\.0\.urls`: .*at least 1"),
        ({"size": 3}, r"unknown field `downloads\.mine\.0\.size`; known fields: urls, files, unverified"),
    ],
)
def test_shares_that_are_none(share, message):
    text = {"description": "d", "source": "s", "licence": "l", "format": "hdf5", "pattern": "*.h5"}
    text |= {"channel_names": ["ecal"], "columns": {"image": "X"}}
    text["downloads"] = {"mine": [{"urls": ["https://example.org"], "files": {"a.h5": None}} | share]}
    with pytest.raises(ValueError, match=f"here: .*{message}"):
        parse_schema("mine", text, "here")
