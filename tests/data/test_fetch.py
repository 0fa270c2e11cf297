import hashlib
import re
import socket

import pytest

from pmal_tf.data.tfds import fetch
from pmal_tf.data.tfds.fetch import check_reachable, download
from pmal_tf.runtime.errors import PmalError

CONTENT = bytes(range(256)) * 20_000  # 5 MB: several blocks.
MD5 = hashlib.md5(CONTENT).hexdigest()


def files_below(folder):
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()
    )


# Downloading a file.


def test_a_file_is_downloaded_whole(server, tmp_path, capfd):
    server.files["a.zip"] = CONTENT
    download(f"{server.url}/a.zip", tmp_path / "new" / "a.zip", MD5, "")
    assert (tmp_path / "new" / "a.zip").read_bytes() == CONTENT
    assert files_below(tmp_path) == ["new/a.zip"]
    assert "a.zip: 100%" in capfd.readouterr().err


def test_a_download_goes_on_where_it_was_cut_off(server, tmp_path):
    server.files["a.zip"] = CONTENT
    server.cut_after = 2_000_000
    url, target = f"{server.url}/a.zip", tmp_path / "a.zip"
    with pytest.raises(PmalError, match=r"broke off.*is kept\. Do this") as raised:
        download(url, target, MD5, "Do this.")
    assert url in str(raised.value)
    held = (tmp_path / "a.zip.part").stat().st_size
    assert 0 < held <= 2_000_000
    assert not target.exists()
    server.cut_after = None
    download(url, target, MD5, "")
    assert server.asked == [("a.zip", None), ("a.zip", f"bytes={held}-")]
    assert target.read_bytes() == CONTENT


def test_a_download_starts_again_where_the_server_sends_no_ranges(server, tmp_path):
    server.files["a.zip"] = CONTENT
    server.ranges = False
    (tmp_path / "a.zip.part").write_bytes(CONTENT[:1000])
    download(f"{server.url}/a.zip", tmp_path / "a.zip", MD5, "")
    assert server.asked == [("a.zip", "bytes=1000-")]
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_a_download_that_lacks_only_its_name_is_finished(server, tmp_path):
    server.files["a.zip"] = CONTENT
    (tmp_path / "a.zip.part").write_bytes(CONTENT)
    download(f"{server.url}/a.zip", tmp_path / "a.zip", MD5, "")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert files_below(tmp_path) == ["a.zip"]


def test_a_wrong_checksum_is_an_error_and_nothing_is_kept(server, tmp_path):
    server.files["a.zip"] = CONTENT[:-1]
    with pytest.raises(PmalError, match=f"wrong checksum.*{MD5}.*5,119,999 bytes.*Do"):
        download(f"{server.url}/a.zip", tmp_path / "a.zip", MD5, "Do this.")
    assert not files_below(tmp_path)


@pytest.mark.parametrize(
    ("address", "reason"),
    [("http://127.0.0.1:9", "Connection refused"), ("{server}", "404")],
)
def test_a_download_that_cannot_begin_keeps_what_is_there(
    address, reason, server, tmp_path
):
    (tmp_path / "a.zip.part").write_bytes(CONTENT[:1000])
    url = f"{address.format(server=server.url)}/a.zip"
    with pytest.raises(PmalError, match=reason):
        download(url, tmp_path / "a.zip", MD5, "")
    assert (tmp_path / "a.zip.part").read_bytes() == CONTENT[:1000]
    assert files_below(tmp_path) == ["a.zip.part"]


def test_a_download_that_cannot_be_written_says_so(server, tmp_path):
    server.files["a.zip"] = CONTENT
    (tmp_path / "file").touch()
    with pytest.raises(PmalError, match=r"can be written.*file/a\.zip\.part") as raised:
        download(f"{server.url}/a.zip", tmp_path / "file" / "a.zip", MD5, "")
    assert "connection" not in str(raised.value)


# Asking whether a host answers.


def test_a_host_is_asked_once_and_sends_no_more_than_it_must(server):
    server.files.update(a=CONTENT, b=CONTENT)
    check_reachable([f"{server.url}/a", f"{server.url}/b"], "")
    assert len(server.asked) == 1
    check_reachable([], "")


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("http://127.0.0.1:9/a", "Connection refused"),
        ("http://nosuch.invalid/a", "NameResolutionError"),
        ("{server}/missing", "404"),
    ],
)
def test_an_address_without_an_answer_is_an_error(address, reason, server, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    url = address.format(server=server.url)
    with pytest.raises(PmalError, match=f"{re.escape(url)}.*{reason}.*Do this"):
        check_reachable([url], "Do this.")


def test_a_host_that_never_answers_is_given_up(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(fetch, "PROBE_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/a"
        with pytest.raises(PmalError, match=r"no answer within 0\.2 seconds"):
            check_reachable([url], "")


def test_a_proxy_of_the_environment_is_used(server, monkeypatch):
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("HTTP_PROXY", server.url)
    monkeypatch.setenv("http_proxy", server.url)
    # A proxy is asked for the whole address; the handler drops its first character.
    server.files["ttp://nosuch.invalid/a"] = b"by proxy"
    check_reachable(["http://nosuch.invalid/a"], "")
    assert server.asked == [("ttp://nosuch.invalid/a", None)]
