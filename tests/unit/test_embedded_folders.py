from __future__ import annotations

import os
import socket
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest

from core.embedded import folders, ports, postgres, postgres_wheel
from core.embedded import redis as embedded_redis
from core.embedded.faults import EmbeddedError
from core.embedded.redis import Server


def mode(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_new_folders_are_closed_and_old_ones_are_left_alone(tmp_path):
    old = tmp_path / "old"
    old.mkdir()
    old.chmod(0o755)
    folders.make_folder(old / "a" / "b")
    assert mode(old) == 0o755
    assert mode(old / "a" / "b") & 0o066 == 0


def test_a_secret_is_made_once_and_for_its_owner_alone(tmp_path):
    path = tmp_path / "password"
    before = os.umask(0)
    try:
        first = folders.secret_in(path)
    finally:
        os.umask(before)
    assert len(first) >= 40
    assert folders.secret_in(path) == first
    assert mode(path) == 0o600
    assert [one.name for one in tmp_path.iterdir()] == ["password"]


def test_a_folder_is_locked_for_others_and_free_again(tmp_path):
    one, other = folders.FolderLock(tmp_path / "lock"), folders.FolderLock(tmp_path / "lock")
    one.acquire()
    one.acquire()
    with pytest.raises(EmbeddedError, match=f"in use by process {os.getpid()}"):
        other.acquire()
    one.release()
    other.acquire()
    other.release()


def test_free_ports_differ_and_a_taken_one_says_why():
    found = ports.free_ports(5)
    assert len(set(found)) == 5
    assert ports.why_not(found[0]) is None
    with socket.create_server(("127.0.0.1", found[0])):
        assert ports.why_not(found[0]) == "Address already in use"
        assert ports.answers(found[0])
    assert not ports.answers(found[0])
    assert ports.why_not(65_536) == "there are only 65535"


def test_new_data_gets_the_newest_postgres_and_old_data_its_own(tmp_path):
    found = postgres_wheel.installations()
    assert postgres_wheel.installation_for(tmp_path / "none").major == max(found) == 18
    (tmp_path / "PG_VERSION").write_text("16\n")
    assert postgres_wheel.installation_for(tmp_path).major == 16
    (tmp_path / "PG_VERSION").write_text("12\n")
    with pytest.raises(EmbeddedError, match="made by PostgreSQL 12"):
        postgres_wheel.installation_for(tmp_path)


def test_without_the_wheel_the_operator_is_told_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(postgres_wheel, "find_spec", lambda name: None)
    with pytest.raises(EmbeddedError, match="set DATABASE_URL"):
        postgres_wheel.installation_for(tmp_path)


def put_server(folder: Path, name: str, version: str) -> Path:
    """An executable that tells its version as a server of that name does."""
    binary = folder / name
    binary.parent.mkdir(parents=True, exist_ok=True)
    binary.write_text(f'#!/bin/sh\necho "Redis server v={version} sha=00000000:0 malloc=libc bits=64 build=0"\n')
    binary.chmod(0o755)
    return binary


def test_the_newest_redis_of_the_wheel_and_of_path_is_taken(tmp_path, monkeypatch):
    bundled = put_server(tmp_path / "wheel" / "bin", "redis-server", "6.2.14")
    spec = SimpleNamespace(origin=str(tmp_path / "wheel" / "__init__.py"))
    monkeypatch.setattr(embedded_redis, "find_spec", lambda name: spec)
    monkeypatch.setenv("PATH", "")
    assert embedded_redis.find_server() == Server(bundled, (6, 2, 14))
    older = put_server(tmp_path / "older", "redis-server", "6.0.16")
    monkeypatch.setenv("PATH", str(older.parent))
    assert embedded_redis.find_server().path == bundled
    newer = put_server(tmp_path / "newer", "redis-server", "7.0.15")
    monkeypatch.setenv("PATH", str(newer.parent))
    assert embedded_redis.find_server() == Server(newer, (7, 0, 15))
    valkey = put_server(tmp_path / "newer", "valkey-server", "8.1.1")
    assert embedded_redis.find_server() == Server(valkey, (8, 1, 1))


def test_without_any_redis_the_operator_is_told_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(embedded_redis, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "redis-server").write_text("no program")
    (tmp_path / "redis-server").chmod(0o755)
    with pytest.raises(EmbeddedError, match=r"apt install redis-server.*REDIS_URL"):
        embedded_redis.find_server()


def test_no_secret_and_no_statement_log_in_the_argument_lists(tmp_path):
    server = postgres.EmbeddedPostgres(tmp_path, 5000)
    line = " ".join(server.program().argv)
    assert "log_statement=none" in line
    assert "log_min_error_statement=panic" in line
    assert "fsync=on" in line
    assert "synchronous_commit=on" in line
    cache = embedded_redis.EmbeddedRedis(tmp_path / "redis", 5001)
    cache.prepare()
    cache.release()
    secret = folders.secret_in(tmp_path / "redis" / "password")
    assert secret in (tmp_path / "redis" / "redis.conf").read_text()
    assert mode(tmp_path / "redis" / "redis.conf") == 0o600
    assert secret not in " ".join(cache.program().argv)
