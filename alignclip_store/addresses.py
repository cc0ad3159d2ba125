"""Which addresses the service may call on behalf of a client: public ones alone, so that nobody reaches inside."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from alignclip_store.errors import UrlRefused

MAX_URL_CHARACTERS = 2048
TRANSLATED = ipaddress.ip_network("64:ff9b::/96")  # IPv6 for any IPv4, private ones too


@dataclass(frozen=True, kw_only=True)
class Target:
    """A URL and the one address that it was resolved to: who connects there cannot be sent elsewhere by a second look
    at the name."""

    url: str
    scheme: str
    host: str
    port: int
    path: str  # with its query
    address: str


def resolve_target(url: str, *, allow_private: bool) -> Target:
    """The URL with its address looked up, once. Raises `UrlRefused` for one that is not https or leads inside.

    `allow_private` lets both through: for tests, and for networks whose owner trusts all who hold a key.
    """
    parts = _split(url, allow_private=allow_private)
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UrlRefused(f"The host of {host!r} cannot be found ({error}).", param="url") from error
    addresses = [str(entry[4][0]) for entry in found]
    for address in addresses:
        if not allow_private and not is_public(address):
            raise UrlRefused(f"{host!r} leads to {address}, which is not a public address.", param="url")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(url=url, scheme=parts.scheme, host=host, port=port, path=path, address=addresses[0])


def is_public(address: str) -> bool:
    """Whether the address is one of the open internet's, and no other address in disguise."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return is_public(str(ip.ipv4_mapped))
        if ip.sixtofour is not None or ip.teredo is not None or ip in TRANSLATED:
            return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def _split(url: str, *, allow_private: bool) -> SplitResult:
    if len(url) > MAX_URL_CHARACTERS or any(not "!" <= character <= "~" for character in url):
        raise UrlRefused(f"A URL has at most {MAX_URL_CHARACTERS} plain characters and no spaces.", param="url")
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises for one that is none
    except ValueError as error:
        raise UrlRefused(f"{url!r} is no URL ({error}).", param="url") from error
    allowed = ("https", "http") if allow_private else ("https",)
    if parts.scheme not in allowed or not parts.hostname:
        raise UrlRefused(f"{url!r} is not allowed; wanted {allowed[0]}://host/path.", param="url")
    if parts.username is not None or parts.password is not None:
        raise UrlRefused("A URL with a user or password in it is not allowed; the signature proves the sender.")
    return parts
