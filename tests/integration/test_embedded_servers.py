"""The embedded PostgreSQL and Redis as real processes: data, permissions and crashes."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import threading
import time
from pathlib import Path

import psycopg
import pytest
import redis

from core.embedded import processes
from core.embedded.faults import EmbeddedError
from core.embedded.postgres import EmbeddedPostgres
from core.embedded.redis import EmbeddedRedis, find_server


def value(url: str, question: str):
    with psycopg.connect(url) as connection:
        return connection.execute(question).fetchone()[0]


def test_postgres_is_ours_in_utf8_and_the_service_is_no_superuser(tmp_path):
    with EmbeddedPostgres(tmp_path / "pg", durable=False) as server:
        assert value(server.url, "SELECT current_database() || getdatabaseencoding()") == "darkroomUTF8"
        assert value(server.url, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user") is False
        assert value(server.url, "SELECT lower('ÄÉ')") == "äé"
        wrong_password = server.url.replace(server.url.split(":")[2].split("@")[0], "wrong")
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(wrong_password)
    assert processes.running_in(tmp_path / "pg" / "data", "postgres") == []


def test_postgres_never_writes_a_statement_into_its_log(tmp_path):
    server = EmbeddedPostgres(tmp_path / "pg", durable=False)
    with server, psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (prompt text UNIQUE)")
        connection.execute("INSERT INTO t VALUES ('a secret prompt')")
        for wrong in ("INSERT INTO t VALUES ('a secret prompt')", "SELECT nothing FROM t"):
            with pytest.raises(psycopg.Error):
                connection.execute(wrong)
    log = (tmp_path / "pg" / "log").read_text()
    assert "unique constraint" in log
    assert "INSERT" not in log
    assert "Key (" not in log


def test_postgres_comes_back_after_its_master_is_killed_under_a_busy_backend(tmp_path):
    server = EmbeddedPostgres(tmp_path / "pg", durable=False)
    server.start()
    data = server.data
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS n")
    busy = threading.Thread(target=_keep_busy, args=(server.url,), daemon=True)
    busy.start()
    _eventually(lambda: value(server.url, "SELECT count(*) FROM pg_stat_activity WHERE query ~ 'DO'") > 1)
    master = int((data / "postmaster.pid").read_text().split()[0])
    os.kill(master, signal.SIGKILL)
    server.stop()
    assert (data / "postmaster.pid").exists()
    again = EmbeddedPostgres(tmp_path / "pg", durable=False)
    try:
        assert value(again.start(), "SELECT n FROM kept") == 1
    finally:
        again.stop()
    busy.join(20)
    assert processes.running_in(data, "postgres") == []


def _stop_hard(server: EmbeddedPostgres) -> Path:
    """Kill the server and all its child processes; return the pid file that is left."""
    master = int((server.data / "postmaster.pid").read_text().split()[0])
    os.killpg(master, signal.SIGKILL)
    server.stop()
    _eventually(lambda: not processes.running_in(server.data, "postgres"))
    return server.data / "postmaster.pid"


def test_a_pid_file_whose_number_another_process_has_now_does_not_stop_the_start(tmp_path):
    server = EmbeddedPostgres(tmp_path / "pg", durable=False)
    server.start()
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS n")
    pid_file = _stop_hard(server)
    # The other process even runs in the data folder: neither the pid nor the folder makes it a server.
    user = server.program().user
    as_user = {"user": user.uid, "group": user.gid, "extra_groups": []} if user else {}
    stranger = subprocess.Popen(["/bin/sleep", "600"], cwd=server.data, **as_user)
    try:
        lines = pid_file.read_text().splitlines()
        pid_file.write_text("\n".join([str(stranger.pid), *lines[1:]]) + "\n")
        with EmbeddedPostgres(tmp_path / "pg", durable=False) as again:
            assert value(again.url, "SELECT n FROM kept") == 1
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_pid_file_with_the_number_of_another_folders_server_does_not_stop_the_start(tmp_path):
    server = EmbeddedPostgres(tmp_path / "pg", durable=False)
    server.start()
    pid_file = _stop_hard(server)
    with EmbeddedPostgres(tmp_path / "other", durable=False) as other:
        number = (other.data / "postmaster.pid").read_text().split()[0]
        pid_file.write_text("\n".join([number, *pid_file.read_text().splitlines()[1:]]) + "\n")
        with EmbeddedPostgres(tmp_path / "pg", durable=False) as again:
            assert (value(again.url, "SELECT 1"), value(other.url, "SELECT 1")) == (1, 1)


def test_a_server_that_still_works_in_the_folder_is_ended_before_another_starts(tmp_path):
    """The launcher was killed and its lock released, but the server still runs; the folder never has two."""
    first = EmbeddedPostgres(tmp_path / "pg", durable=False)
    first.start()
    old = processes.identify(int((first.data / "postmaster.pid").read_text().split()[0]))
    first.release()
    with EmbeddedPostgres(tmp_path / "pg", durable=False) as again:
        assert value(again.url, "SELECT 1") == 1
        assert old is not None and processes.identify(old.pid) != old
    first.stop()


def _keep_busy(url: str) -> None:
    """Run a busy backend that does not notice the death of its master, for 30 s at most."""
    with pytest.raises(psycopg.OperationalError), psycopg.connect(url) as connection:
        connection.execute(
            "DO $$ BEGIN WHILE clock_timestamp() < now() + interval '30 s' "
            "LOOP PERFORM sum(g) FROM generate_series(1, 100000) g; END LOOP; END $$"
        )


def _eventually(holds) -> None:
    until = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_an_initdb_cut_short_is_repaired_and_a_second_server_is_refused(tmp_path):
    half = tmp_path / "pg" / "unfinished.1"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    with EmbeddedPostgres(tmp_path / "pg", durable=False) as server:
        assert not half.exists()
        with pytest.raises(EmbeddedError, match="in use by process"):
            EmbeddedPostgres(tmp_path / "pg").start()
        assert value(server.url, "SELECT 1") == 1


def test_no_folder_of_others_changes_its_mode(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o700)
    with EmbeddedPostgres(home / "var" / "postgres", durable=False) as server:
        value(server.url, "SELECT 1")
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert stat.S_IMODE(server.data.stat().st_mode) == 0o700
    assert stat.S_IMODE((server.folder / "password").stat().st_mode) == 0o600


def test_redis_wants_its_password_and_refuses_to_forget(tmp_path):
    with EmbeddedRedis(tmp_path / "redis") as server:
        client = redis.Redis.from_url(server.url)
        client.set("a", "b")
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        with pytest.raises(redis.AuthenticationError):
            redis.Redis(port=server.port, retry=None).ping()


def test_who_asks_without_a_password_and_never_reads_cannot_fill_the_servers_memory(tmp_path):
    """CVE-2025-21605: the refusals pile up in the server, which is ours, until the machine has no memory left."""
    commands = b"PING\r\n" * 10_000
    with EmbeddedRedis(tmp_path / "redis") as server, socket.create_connection(("127.0.0.1", server.port)) as attacker:
        attacker.settimeout(30)
        client = redis.Redis.from_url(server.url, decode_responses=True)
        with pytest.raises(ConnectionError):  # it is cut off
            for _ in range(400):
                attacker.sendall(commands)
        assert client.info()["used_memory_peak"] < 64 * 2**20


def test_no_file_can_keep_redis_from_starting(tmp_path):
    """After a power loss any file may be damaged; an older version of ours left an append-only file."""
    with EmbeddedRedis(tmp_path / "redis"):
        pass
    for name in ("appendonly.aof", "dump.rdb", "redis.pid"):
        (tmp_path / "redis" / name).write_bytes(b"*3\r\n$3\r\nSET\r\n" + b"\0" * 4096)
    with EmbeddedRedis(tmp_path / "redis") as server:
        assert redis.Redis.from_url(server.url).dbsize() == 0


def test_a_redis_that_outlived_its_parent_is_ended_by_the_next(tmp_path):
    first = EmbeddedRedis(tmp_path / "redis")
    first.start()
    (orphan,) = processes.running_in(tmp_path / "redis", find_server().path.resolve().name)
    first.release()  # As if the parent had been killed: the lock is free and the server still runs.
    with EmbeddedRedis(tmp_path / "redis"):
        assert processes.identify(orphan.pid) != orphan
    first.stop()


def test_a_server_that_cannot_start_says_why(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        clash = EmbeddedPostgres(tmp_path / "pg", taken.getsockname()[1], durable=False)
        with pytest.raises(EmbeddedError, match="Address already in use"):
            clash.start()
    assert Path(tmp_path / "pg" / "data" / "PG_VERSION").exists()
