from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from core.embedded import processes
from core.embedded.processes import Identity, Program
from core.embedded.users import User, unprivileged_user

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def run(*argv: str, **options) -> str:
    program = Program(name="it", argv=argv, environ={"PATH": os.defpath}, **options)
    process = processes.spawn(program, subprocess.PIPE)
    said, _ = process.communicate(timeout=20)
    return said.decode()


def eventually(holds: Callable[[], object]) -> None:
    until = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.01)


def capabilities(status: str) -> dict[str, int]:
    lines = (line.split() for line in status.splitlines() if line.startswith("Cap"))
    return {name.rstrip(":"): int(mask, 16) for name, mask in lines}


def test_a_program_finds_no_signal_ignored_and_a_session_of_its_own():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        said = run("sh", "-c", "grep SigIgn /proc/self/status; ps -o sid= -p $$; echo $$")
    finally:
        signal.signal(signal.SIGINT, before)
    ignored, session, pid = said.split("\n")[:3]
    # The C library keeps signals above 31 to itself.
    assert int(ignored.split()[1], 16) & 0x7FFF_FFFF == 0
    assert session.strip() == pid


def test_a_program_that_is_not_there_says_so_and_ends():
    assert "cannot start nowhere: [Errno 2]" in run("/nowhere")


def test_a_program_dies_with_its_starter():
    code = (
        "import subprocess; from core.embedded.processes import Program, spawn\n"
        "child = spawn(Program(name='c', argv=['sleep', '1000'], environ={'PATH': '/usr/bin:/bin'}), 1)\n"
        "import sys; print(child.pid, file=sys.stderr, flush=True); child.wait()"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    assert parent.stderr is not None
    child_pid = int(parent.stderr.readline())
    assert processes.identify(child_pid) is not None
    parent.kill()
    parent.wait()
    parent.stderr.close()
    eventually(lambda: processes.identify(child_pid) is None)


@as_root
def test_root_becomes_an_ordinary_user_without_any_right_left(tmp_path_factory):
    said = run("cat", "/proc/self/status", user=unprivileged_user("nobody"), reach=(Path("/usr/bin"),))
    assert "Uid:\t65534\t65534\t65534\t65534" in said
    assert capabilities(said) | {"CapBnd": 0} == dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), 0)


@as_root
def test_below_a_closed_folder_one_right_is_kept_and_no_mode_is_changed(tmp_path):
    closed = tmp_path / "closed"
    (closed / "inner").mkdir(parents=True)
    closed.chmod(0o700)
    (closed / "inner" / "note").write_text("found")
    nobody = unprivileged_user("nobody")
    # access(2) is what initdb and postgres look for their binaries with; the shell's `test` asks otherwise.
    look = (
        f"import os; print(os.access('{closed}/inner/note', os.R_OK), open('{closed}/inner/note').read())\n"
        "print(open('/proc/self/status').read())\n"
        f"os.system('touch {closed}/inner/new')"
    )
    said = run(sys.executable, "-I", "-S", "-c", look, user=nobody, reach=(closed / "inner",))
    assert "True found" in said
    assert capabilities(said)["CapEff"] == 1 << 2  # CAP_DAC_READ_SEARCH alone
    assert not (closed / "inner" / "new").exists()
    assert closed.stat().st_mode & 0o777 == 0o700


@as_root
def test_a_root_without_that_right_is_told_what_to_set(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    nobody = unprivileged_user("nobody")
    line = processes.launch_line(Program(name="it", argv=["true"], environ={}, user=nobody, reach=(closed,)))
    line[line.index("--parent") + 1] = "0"
    poor = ["setpriv", "--bounding-set=-dac_read_search,-dac_override", *line]
    done = subprocess.run(poor, capture_output=True, text=True, check=False)
    assert done.returncode == 126
    assert f"cannot enter {closed}" in done.stderr
    assert "DARKROOM_VAR" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_stop_goes_from_step_to_step_and_kills_at_the_last():
    deaf = "trap '' TERM INT; echo deaf; while :; do sleep 0.05; done"
    program = Program(name="deaf", argv=["sh", "-c", deaf], environ={"PATH": os.defpath})
    process = processes.spawn(program, subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"deaf\n"
    processes.stop(process, ((signal.SIGTERM, 0.1), (signal.SIGINT, 0.1)))
    process.stdout.close()
    assert process.returncode == -signal.SIGKILL


def test_only_the_process_that_is_meant_is_ended():
    with subprocess.Popen(["sleep", "1000"]) as bystander:
        meant = processes.identify(bystander.pid)
        assert meant is not None
        processes.end_others([Identity(meant.pid, meant.born_ticks - 1)], ((signal.SIGTERM, 0.1),))
        assert bystander.poll() is None
        processes.end_others([meant], ((signal.SIGTERM, 5.0),))
        assert bystander.wait() == -signal.SIGTERM


def test_processes_are_found_by_folder_and_program(tmp_path):
    with subprocess.Popen(["sleep", "1000"], cwd=tmp_path) as inside:
        with subprocess.Popen(["sleep", "1000"]) as outside:
            eventually(lambda: processes.running_in(tmp_path, "sleep"))
            assert [one.pid for one in processes.running_in(tmp_path, "sleep")] == [inside.pid]
            assert processes.running_in(tmp_path, "postgres") == []
            outside.kill()
        inside.kill()


def test_a_dead_process_has_no_identity():
    with subprocess.Popen(["true"]) as done:
        eventually(lambda: processes.identify(done.pid) is None)  # A zombie counts as gone.


def test_secrets_in_the_environment_are_not_shown():
    program = Program(name="it", argv=["true"], environ={"DATABASE_URL": "postgresql://u:hush@h/d"})
    assert "hush" not in repr(program)


def test_an_ordinary_user_stays_who_they_are(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert unprivileged_user("root") is None


def test_root_takes_the_first_unprivileged_user_there_is(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert unprivileged_user("nobody") == User("nobody", 65534, 65534)
    chosen = unprivileged_user()
    assert chosen is not None
    assert chosen.uid != 0


@pytest.mark.parametrize("name", ["root", "no-such-user"])
def test_root_cannot_be_the_unprivileged_user(monkeypatch, name):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(Exception, match="DARKROOM_POSTGRES_USER"):
        unprivileged_user(name)
