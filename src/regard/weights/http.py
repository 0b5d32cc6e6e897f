"""One file over HTTP: resumed, verified, and under its final name only when it is whole."""

from __future__ import annotations

import hashlib
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse
from pathlib import Path

CHUNK = 1 << 20
SECONDS_BETWEEN_LINES = 5.0
TIMEOUT = 30.0


class DownloadError(Exception):
    """Why a file could not be had, in a few words."""


def download(url: str, target: Path, sha256: str | None = None, announce: Callable[[str], object] = print) -> Path:
    """Downloads `url` to `target`, continuing `target.part` where an earlier attempt stopped.

    sha256: the expected hash or its first hexadecimal digits. A connection that breaks leaves the part for
    the next attempt; a wrong length, a wrong hash or a web page instead of a file deletes it. Raises
    DownloadError.
    """
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _fill(url, part, announce)
        if sha256 is not None and not file_sha256(part).startswith(sha256):
            part.unlink()
            raise DownloadError(f"{url} gave a file whose SHA-256 does not start with {sha256}")
        os.replace(part, target)
    except urllib.error.HTTPError as error:
        error.close()
        raise DownloadError(f"{url} answered {error.code} {error.reason}") from None
    except urllib.error.URLError as error:
        raise DownloadError(f"{url} cannot be reached: {error.reason}") from None
    except (OSError, HTTPException, ValueError) as error:
        raise DownloadError(f"{url}: {str(error) or type(error).__name__}") from None
    return target


def file_sha256(path: Path) -> str:
    """SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fill(url: str, part: Path, announce: Callable[[str], object]) -> None:
    """Brings `part` to its full length, by the remaining bytes where the server can give a range."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise
        error.close()
        if error.headers.get("Content-Range") == f"bytes */{have}":
            return  # the part is the whole file already: the earlier attempt stopped before the rename
        part.unlink()  # longer than the file: from another version of it
        response = urllib.request.urlopen(url, timeout=TIMEOUT)
    with response:
        resumed = response.status == 206
        _refuse_page(url, response, part)
        length = response.headers.get("Content-Length")
        start = have if resumed else 0
        expected = start + int(length) if length is not None else None
        with part.open("ab" if resumed else "wb") as file:
            _copy(response, file.write, start, expected, announce)
            file.flush()
            os.fsync(file.fileno())
    size = part.stat().st_size
    if expected is not None and size < expected:
        raise DownloadError(f"{url} broke off after {size:,} of {expected:,} bytes; run again to continue")
    if expected is not None and size > expected:
        part.unlink()
        raise DownloadError(f"{url} gave {size:,} bytes instead of {expected:,}")


def _refuse_page(url: str, response: HTTPResponse, part: Path) -> None:
    """A log-in or error page that answers 200 is no file."""
    kind = response.headers.get_content_type()
    if kind in ("text/html", "application/xhtml+xml"):
        part.unlink(missing_ok=True)
        raise DownloadError(f"{url} gave a web page instead of a file")


def _copy(
    response: HTTPResponse,
    write: Callable[[bytes], object],
    done: int,
    expected: int | None,
    announce: Callable[[str], object],
) -> None:
    """Copies the body in chunks, with a line every few seconds."""
    last = time.monotonic()
    while chunk := response.read1(CHUNK):
        write(chunk)
        done += len(chunk)
        if time.monotonic() - last > SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            total = f" of {expected / 1e6:,.0f}" if expected else ""
            announce(f"{done / 1e6:,.0f}{total} MB")
