"""deploy/: each example is one that its program takes, and a session goes through each proxy."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import icesignal
import pytest
import trio
from coturn import free_port
from icesignal.config import RelayConfig, read_config
from processes import Processes
from turn_wire import make_certificate, trusting

from iceagent.cli.serve_config import ServeConfig
from iceagent.servers import TlsFiles

pytestmark = pytest.mark.processes

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
RELAY = (sys.executable, "-c", "from icesignal.main import main; main()")


def need(program: str) -> str:
    found = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"{program} is not installed")
    return found


def check(*command: str) -> None:
    """Run a command that looks at a file; it must find nothing to complain about."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def adapted(folder: Path, name: str, files: TlsFiles, port: int, relays: list[int]) -> Path:
    """Write an example with ports and files of this test instead of its own."""
    text = (DEPLOY / name).read_text()
    both = folder / "both.pem"
    both.write_bytes(files.certificate.read_bytes() + files.key.read_bytes())
    for number, relay in enumerate(relays, 11):
        text = text.replace(f"10.0.0.{number}:8080", f"127.0.0.1:{relay}")
    text = text.replace("/etc/haproxy/relay.pem", str(both))
    text = text.replace("/etc/nginx/relay.pem", str(files.certificate)).replace("/etc/nginx/relay.key", str(files.key))
    text = text.replace("bind :443", f"bind 127.0.0.1:{port}").replace("listen 443", f"listen 127.0.0.1:{port}")
    own = f"{{\n\tadmin off\n}}\nhttps://127.0.0.1:{port} {{\n\ttls {files.certificate} {files.key}\n"
    text = text.replace("relay.example {\n", own)
    path = folder / name
    path.write_text(text)
    return path


def command_of(name: str, path: Path, folder: Path, *, looks_only: bool) -> list[str]:
    match name:
        case "haproxy.cfg":
            return [need("haproxy"), *(["-c"] if looks_only else ["-db"]), "-f", str(path)]
        case "nginx.conf":
            ours = f"daemon off; pid {folder}/pid; error_log stderr;"
            return [need("nginx"), *(["-t"] if looks_only else []), "-p", str(folder), "-c", str(path), "-g", ours]
        case _:
            how = ["validate"] if looks_only else ["run"]
            return [need("caddy"), *how, "--adapter", "caddyfile", "--config", str(path)]


PROXIES = pytest.mark.parametrize("name", ["haproxy.cfg", "nginx.conf", "Caddyfile"])


@PROXIES
def test_proxies_take_their_examples(tmp_path: Path, name: str) -> None:
    """As they are looked at before a reload."""
    path = adapted(tmp_path, name, make_certificate(tmp_path), free_port(), [1, 2, 3])
    check(*command_of(name, path, tmp_path, looks_only=True))


@PROXIES
def test_a_session_goes_through_each_proxy(run: Processes, tmp_path: Path, name: str) -> None:
    """Over `wss`, to a relay that believes what the proxy says of its client; nothing else of it is reached."""
    files = make_certificate(tmp_path)
    node = run.start(*RELAY, "--json", "--listen", "127.0.0.1:0", "--trusted-proxy", "127.0.0.1")
    relay = icesignal.parse_relay_url(node.wait_for("listening")["url"]).port
    port = free_port()
    path = adapted(tmp_path, name, files, port, [relay, free_port(), free_port()])
    run.start(*command_of(name, path, tmp_path, looks_only=False))

    async def main() -> None:
        url, context = f"wss://127.0.0.1:{port}", trusting(files)
        for _ in range(600):  # until the proxy listens and has found the one relay that lives
            try:
                async with (
                    icesignal.open_client(url, ssl_context=context) as inviter,
                    icesignal.open_client(url, ssl_context=context) as joiner,
                ):
                    await joiner.join(await inviter.allocate(), b"hello")
                    assert await inviter.wait_peer() == b"hello"
                    await joiner.send(b"through")
                    assert await inviter.receive() == b"through"
                    return
            except icesignal.SignalError:
                await trio.sleep(0.1)
        raise AssertionError("no session went through")

    trio.run(main)
    with pytest.raises(Exception, match="404"):
        check_page(port, files, "/metrics")


def check_page(port: int, files: TlsFiles, path: str) -> None:
    with urllib.request.urlopen(f"https://127.0.0.1:{port}{path}", timeout=60, context=trusting(files)):
        pass


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    """With programs that exist: it looks whether those of ExecStart do."""
    analyze = need("systemd-analyze")
    units = []
    for unit in sorted((DEPLOY / "systemd").rglob("*.s*")):
        text = re.sub(r"(/opt/iceagent|%h/.local)/bin/\S+", "/bin/true", unit.read_text())
        (tmp_path / unit.name).write_text(text)
        units.append(str(tmp_path / unit.name))
    drop_in = tmp_path / "iceagent-serve.service.d"
    drop_in.mkdir()
    shutil.copy(DEPLOY / "systemd" / "no-netlink.conf", drop_in)
    assert len(units) == 6
    done = subprocess.run([analyze, "verify", *units], capture_output=True, text=True, timeout=120, check=False)
    complaints = [line for line in done.stderr.splitlines() if str(tmp_path) in line or "iceagent" in line]
    assert (done.returncode, complaints) == (0, []), done.stderr


def test_options_of_the_units_are_ours() -> None:
    """A unit whose command line is wrong restarts for ever."""
    from icesignal.main import main

    from iceagent.cli.app import load_verb

    for unit, command in (("icesignal-relay", main), ("iceagent-serve", load_verb("serve"))):
        (line,) = re.findall(r"^ExecStart=(.*)$", (DEPLOY / "systemd" / f"{unit}.service").read_text(), re.M)
        known = {name for parameter in command.params for name in parameter.opts}
        assert {word for word in line.split() if word.startswith("--")} <= known


@pytest.mark.parametrize(("unit", "verb"), [("iceagent-listen@", "listen"), ("iceagent-up@", "up")])
def test_the_units_of_a_user_are_commands_of_ours(unit: str, verb: str) -> None:
    """And do not try again what will not come right by itself."""
    from iceagent.cli.app import load_verb
    from iceagent.cli.exits import Exit

    text = (DEPLOY / "systemd" / "user" / f"{unit}.service").read_text()
    (words,) = re.findall(r"^ExecStart=%h/.local/bin/iceagent (.*)$", text, re.M)
    assert words.split()[0] == verb
    known = {name for parameter in load_verb(verb).params for name in parameter.opts}
    assert {word for word in words.split() if word.startswith("--")} <= known
    (never,) = re.findall(r"^RestartPreventExitStatus=(.*)$", text, re.M)
    assert {int(code) for code in never.split()} == {Exit.USAGE, Exit.LOCAL_IO}


def test_redis_takes_its_example(tmp_path: Path) -> None:
    """It starts, and answers."""
    port = free_port()
    command = [need("redis-server"), str(DEPLOY / "redis.conf"), "--bind", "127.0.0.1", "--port", str(port)]
    with subprocess.Popen([*command, "--dir", str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        try:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline and process.poll() is None:
                try:
                    with socket.create_connection(("127.0.0.1", port), timeout=10) as stream:
                        stream.sendall(b"CONFIG GET appendonly\r\n")
                        assert b"yes" in stream.recv(1000)
                        return
                except ConnectionRefusedError:
                    time.sleep(0.05)
            assert process.stdout is not None
            process.kill()
            raise AssertionError(process.stdout.read())
        finally:
            process.kill()


def test_coturn_takes_its_example(tmp_path: Path) -> None:
    """It starts with all keys, and none is unknown to it."""
    files = make_certificate(tmp_path)
    text = (DEPLOY / "turnserver.conf").read_text().replace("203.0.113.5", "127.0.0.1")
    text = text.replace("=3478", f"={free_port()}").replace("=5349", f"={free_port()}")
    text = text.replace("/etc/turnserver/fullchain.pem", str(files.certificate))
    path = tmp_path / "turnserver.conf"
    path.write_text(text.replace("/etc/turnserver/privkey.pem", str(files.key)))
    log = tmp_path / "log"
    command = [need("turnserver"), "-c", str(path), "--pidfile", str(tmp_path / "pid"), "--log-file", "stdout"]
    with (
        log.open("wb") as output,
        subprocess.Popen([*command, "--simple-log"], stdout=output, stderr=output) as process,
    ):
        try:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline and process.poll() is None and "auth thread" not in log.read_text():
                time.sleep(0.05)
        finally:
            process.kill()
    said = log.read_text(errors="replace")
    assert "auth thread" in said, said
    assert not re.search(r"(?i)unknown|unrecognized|bad config|illegal", said), said


def test_the_container_is_built_of_what_is_there() -> None:
    """Instructions that exist, files that exist, and a command that is ours."""
    text = (DEPLOY / "Containerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    words = {line.split()[0] for line in lines}
    assert words <= {
        *("FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK"),
        *("ENTRYPOINT", "CMD"),
    }
    entry = json.loads(next(line for line in lines if line.startswith("ENTRYPOINT")).removeprefix("ENTRYPOINT"))
    command = json.loads(next(line for line in lines if line.startswith("CMD")).removeprefix("CMD"))
    assert [*entry, *command] == ["iceagent", "serve", "--config", "/etc/iceagent/serve.toml"]


def test_the_compose_file_names_files_that_are_there() -> None:
    """But for secret, certificate and key, which are nobody's to share; coturn's are where its configuration says."""
    yaml = pytest.importorskip("yaml")
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    assert set(services) == {"relay", "turn"}
    build = services["relay"]["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).is_file()
    mounted = [volume.partition(":")[0] for one in services.values() for volume in one["volumes"]]
    assert {name for name in mounted if not (DEPLOY / name).exists()} == {
        *("./turn-secret", "./fullchain.pem", "./privkey.pem")
    }
    inside = {volume.split(":")[1] for volume in services["turn"]["volumes"]}
    named = re.findall(r"^(?:cert|pkey)=(.*)$", (DEPLOY / "turnserver.conf").read_text(), re.MULTILINE)
    assert inside == {"/etc/coturn/turnserver.conf", *named}


def test_the_container_is_asked_where_operators_ask() -> None:
    """A relay that is full answers 503 to all at its own port, and must not be ended for that."""
    asked = re.search(r"127\.0\.0\.1:(\d+)/healthz", (DEPLOY / "Containerfile").read_text())
    admin = read_config(DEPLOY / "relay.toml", RelayConfig).admin_listen
    assert asked is not None
    assert admin is not None
    assert admin.endswith(f":{asked[1]}")


def test_the_configuration_is_one_of_both_commands() -> None:
    """Names, types and ranges; its secret is made by whoever runs it."""
    for kind in (RelayConfig, ServeConfig):
        assert read_config(DEPLOY / "relay.toml", kind).turn[0].secret_file.endswith("turn-secret")
