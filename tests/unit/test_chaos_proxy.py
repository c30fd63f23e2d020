"""The proxy goes bad in the ways that matter: cut at once, and silent without an end."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from chaos.proxy import Mode, Proxy


@pytest.fixture
def echo() -> Iterator[int]:
    """A server that says back what it hears; its port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=_answer, args=(peer,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    yield listener.getsockname()[1]
    listener.close()


def _answer(peer: socket.socket) -> None:
    with peer:
        while piece := peer.recv(100):
            peer.sendall(piece)


@pytest.fixture
def proxy(echo: int) -> Iterator[Proxy]:
    proxy = Proxy("127.0.0.1", echo)
    yield proxy
    proxy.close()


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=5)


def says_back(line: socket.socket) -> bool:
    line.settimeout(0.3)
    try:
        line.sendall(b"hello")
        return line.recv(100) == b"hello"
    except TimeoutError:
        return False


def ended(line: socket.socket) -> bool:
    line.settimeout(5)
    try:
        return line.recv(100) == b""
    except ConnectionResetError:
        return True


def test_it_passes_on_and_says_when_the_other_side_hangs_up(proxy: Proxy) -> None:
    with connect(proxy) as line:
        assert says_back(line)
        line.shutdown(socket.SHUT_WR)
        assert ended(line)


def test_a_cut_ends_old_lines_and_refuses_new_ones_until_healed(proxy: Proxy) -> None:
    with connect(proxy) as old:
        assert says_back(old)
        proxy.spoil(Mode.CUT)
        assert ended(old)
    with connect(proxy) as new:
        assert ended(new)
    proxy.heal()
    with connect(proxy) as healed:
        assert says_back(healed)


def test_a_black_hole_swallows_old_lines_for_good_and_lets_new_ones_work(proxy: Proxy) -> None:
    with connect(proxy) as old:
        assert says_back(old)
        proxy.spoil(Mode.BLACK_HOLE)
        assert not says_back(old)
        with connect(proxy) as new:
            assert says_back(new)
        proxy.heal()
        assert not says_back(old)


def test_silence_swallows_all_lines_until_new_ones_after_it(proxy: Proxy) -> None:
    with connect(proxy) as old:
        assert says_back(old)
        proxy.spoil(Mode.SILENT)
        with connect(proxy) as during:
            assert not says_back(during)
            assert not says_back(old)
            proxy.heal()
            assert not says_back(during)
    with connect(proxy) as after:
        assert says_back(after)
