"""Which addresses may be called on behalf of a client."""

import pytest

from alignclip_store.addresses import is_public, resolve_target
from alignclip_store.errors import UrlRefused

INSIDE = [
    "127.0.0.1",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",  # where clouds keep credentials
    "100.64.0.1",  # carrier-grade NAT
    "0.0.0.0",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::1",
    "::",
    "fe80::1",
    "fe80::1%eth0",
    "fd00::1",
    "ff02::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "64:ff9b::7f00:1",  # 127.0.0.1 behind NAT64
    "2002:7f00:1::",  # 127.0.0.1 in 6to4
    "2001::1",  # Teredo
]


@pytest.mark.parametrize("address", INSIDE)
def test_inner_addresses_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8"])
def test_addresses_of_the_open_internet_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "url",
    [
        "http://8.8.8.8/",  # not https
        "ftp://8.8.8.8/",
        "file:///etc/passwd",
        "https://",
        "https://user:word@8.8.8.8/",
        "https://8.8.8.8:99999/",
        "https://exa mple.com/",
        "https://example.com/\r\nHost: other",
        "https://localhost/",
        "https://127.1/",
        "https://2130706433/",  # 127.0.0.1 as a number
        "https://0x7f.1/",
        "https://[::1]/",
        "https://[::ffff:10.0.0.1]:8443/",
        "https://nowhere.invalid/",
        "https://8.8.8.8/" + "a" * 3000,
    ],
)
def test_urls_that_lead_inside_or_nowhere_are_refused(url: str) -> None:
    with pytest.raises(UrlRefused):
        resolve_target(url, allow_private=False)


def test_a_public_url_keeps_its_name_and_the_address_that_was_checked() -> None:
    target = resolve_target("https://8.8.8.8/hook?a=1", allow_private=False)
    assert (target.scheme, target.host, target.port, target.path) == ("https", "8.8.8.8", 443, "/hook?a=1")
    assert target.address == "8.8.8.8"


def test_an_operator_may_let_private_addresses_and_plain_http_through() -> None:
    target = resolve_target("http://127.0.0.1:8080", allow_private=True)
    assert (target.address, target.port, target.path) == ("127.0.0.1", 8080, "/")
