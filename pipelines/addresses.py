"""Inputs that are addresses: fetched where that was allowed, refused otherwise."""

from __future__ import annotations

from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

SCHEMES = ("http://", "https://")
MOST_BYTES = 256 * 2**20
TIMEOUT = 60.0


def is_address(item: Any) -> bool:
    """Whether an item is the address of a file on a network."""
    return isinstance(item, str) and item.lower().startswith(SCHEMES)


def fetched(address: str, allow_urls: bool, timeout: float | None) -> bytes:
    """Return the file at an address.

    Args:
        address: It begins with `http://` or `https://`.
        allow_urls: Whether that is allowed.
        timeout: Seconds to wait for an answer; 60 when None.

    Raises:
        ValueError: it is not allowed, or the file is larger than 256 MiB.
        OSError: the file cannot be had.
    """
    if not allow_urls:
        raise ValueError(
            f"{address!r} is an address, and a pipeline fetches nothing unless told to. Give the file; or pass allow_urls=True, if "
            f"whoever gives the addresses may make this machine open them."
        )
    try:
        with urlopen(Request(address, headers={"User-Agent": "vertebra"}), timeout=timeout or TIMEOUT) as answer:
            content: bytes = answer.read(MOST_BYTES + 1)
    except HTTPError as error:
        with error:
            raise OSError(f"{address!r} answered {error.code} {error.reason}.") from None
    if len(content) > MOST_BYTES:
        raise ValueError(f"{address!r} is larger than {MOST_BYTES // 2**20} MiB; fetch the file and give its path.")
    return content
