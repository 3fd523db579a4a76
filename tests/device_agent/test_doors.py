"""No request is refused, reset or left without an answer while versions are switched."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time

from tests.simulators.local_agent import RunningAgent, infer_body
from tests.simulators.signed_fleet import quick_order
from tests.simulators.tiny_bundles import affine_bundle

BODY = json.dumps(infer_body([1.0, 2.0, 3.0, 4.0])).encode()


class Client(threading.Thread):
    """Asks the same question without a pause, and keeps every answer and every failure."""

    def __init__(self, port: int, *, keep_alive: bool, pause: float = 0.0) -> None:
        super().__init__()
        self.port = port
        self.keep_alive = keep_alive
        self.pause = pause
        self.answers: list[float] = []
        self.failures: list[str] = []
        self.finished = threading.Event()

    def run(self) -> None:
        client = self._connect()
        while not self.finished.wait(self.pause):
            try:
                client.request("POST", "/v2/models/double/infer", BODY)
                response = client.getresponse()
                document = json.loads(response.read())
                if response.status == 200:
                    self.answers.append(document["outputs"][0]["data"][0])
                else:
                    self.failures.append(f"{response.status} {document}")
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                client = self._connect()
            if not self.keep_alive:
                client.close()
        client.close()

    def _connect(self) -> http.client.HTTPConnection:
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        # A connection that is silently made anew would hide a reset one.
        client.auto_open = 0 if self.keep_alive else 1
        client.connect()
        return client


def test_switching_loses_no_request(agent: RunningAgent) -> None:
    agent.install("1.0.0", 1.0)
    clients = [Client(agent.port, keep_alive=True) for _ in range(2)]
    clients += [Client(agent.port, keep_alive=True, pause=0.05) for _ in range(8)]
    clients += [Client(agent.port, keep_alive=False) for _ in range(2)]
    for client in clients:
        client.start()
    for number in range(2, 5):
        agent.install(f"{number}.0.0", float(number))
        agent.wait_for(lambda wanted=number: all(wanted in c.answers for c in clients))
    for client in clients:
        client.finished.set()
    for client in clients:
        client.join()
    assert [client.failures for client in clients if client.failures] == []
    assert sum(len(client.answers) for client in clients) > 200
    for client in clients:
        assert sorted(set(client.answers)) == [1.0, 2.0, 3.0, 4.0]


def test_an_idle_connection_lives_through_a_switch(agent: RunningAgent) -> None:
    agent.install("1.0.0", 1.0)
    client = http.client.HTTPConnection("127.0.0.1", agent.port, timeout=30)
    client.connect()
    client.auto_open = 0
    for version in ("2.0.0", "3.0.0"):
        agent.install(version, float(version[0]))
        supervisor = agent.supervisor
        assert supervisor
        agent.wait_for(lambda doors=supervisor._doors: doors.settled)
        client.request("POST", "/v2/models/double/infer", BODY)
        document = json.loads(client.getresponse().read())
        assert document["model_version"] == version
    client.close()


def test_a_request_half_sent_is_answered_after_the_switch(agent: RunningAgent) -> None:
    agent.install("1.0.0", 1.0)
    head = f"POST /v2/models/double/infer HTTP/1.1\r\nContent-Length: {len(BODY)}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", agent.port), timeout=30) as client:
        client.sendall(head + BODY[:10])
        agent.install("2.0.0", 2.0)
        client.sendall(BODY[10:])
        answer = http.client.HTTPResponse(client)
        answer.begin()
        assert answer.status == 200
        assert json.loads(answer.read())["model_version"] == "1.0.0"


def test_a_switch_does_not_wait_for_idle_connections(agent: RunningAgent) -> None:
    agent.install("1.0.0", 1.0)
    idle = [socket.create_connection(("127.0.0.1", agent.port)) for _ in range(50)]
    agent.wait_for(lambda: agent.answer() == [1.0, 2.0, 3.0, 4.0])
    agent.release("double", "2.0.0", affine_bundle("double", "2.0.0", 2.0))
    agent.order(quick_order("double", "2.0.0"))
    agent.wait_for(lambda: agent.served_versions() == ["2.0.0"])
    supervisor = agent.supervisor
    assert supervisor
    agent.wait_for(lambda: supervisor._doors.settled, seconds=20)
    for client in idle:
        client.sendall(b"GET /v2/health/ready HTTP/1.1\r\n\r\n")
        assert client.recv(12) == b"HTTP/1.1 200"
        client.close()


def test_pipelined_requests_are_all_answered(agent: RunningAgent) -> None:
    agent.install("1.0.0", 1.0)
    request = b"GET /v2/models/double HTTP/1.1\r\n\r\n"
    with socket.create_connection(("127.0.0.1", agent.port), timeout=30) as client:
        client.sendall(request * 5)
        received = b""
        deadline = time.monotonic() + 30
        while received.count(b"HTTP/1.1 200 OK") < 5 and time.monotonic() < deadline:
            received += client.recv(65536)
    assert received.count(b'"versions":["1.0.0"]') == 5
