"""A headless Chromium that tests drive over a pipe, by the DevTools protocol; it needs no package."""

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-pipe")
CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")  # a green picture that moves
SECONDS = 30.0  # for an answer, on a busy machine


class Browser:
    """A browser with one page; a context manager.

    Attributes:
        errors: errors that the page and its workers wrote to the console, and uncaught exceptions.
        requests: addresses that they asked for, except of data inside of them.
    """

    def __enter__(self) -> "Browser":
        self.profile = tempfile.mkdtemp()
        theirs, self._out = os.pipe()
        self._in, answers = os.pipe()
        flags = (*FLAGS, *CAMERA, f"--user-data-dir={self.profile}")
        command = ("bash", "-c", f'exec "$@" 3<&{theirs} 4>&{answers}', "bash", str(CHROMIUM), *flags)
        self.process = subprocess.Popen(command, pass_fds=(theirs, answers), stderr=subprocess.DEVNULL)
        for handle in (theirs, answers):
            os.close(handle)
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._buffer, self._sent, self._session = b"", 0, ""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._watch(self._session)
        self.send("Page.enable")
        return self

    def __exit__(self, *_: object) -> None:
        self._post("Browser.close", session="")
        self.process.wait(SECONDS)
        for handle in (self._in, self._out):
            os.close(handle)
        shutil.rmtree(self.profile, ignore_errors=True)

    def send(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Return the answer to a command: of the page, or of the browser if the session is empty."""
        number = self._post(method, session, **parameters)
        while (message := self._receive()).get("id") != number:
            pass
        assert "error" not in message, message
        answer: dict[str, Any] = message["result"]
        return answer

    def open(self, path: Path, downloads: Path) -> None:
        """Open a file as the page, and keep what it downloads in a folder; forget errors and requests."""
        self.errors.clear()
        self.requests.clear()
        self.send("Browser.setDownloadBehavior", session="", behavior="allow", downloadPath=str(downloads.absolute()))
        self.send("Page.navigate", url=path.absolute().as_uri())
        self.wait("document.readyState === 'complete'")

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression, or what its promise resolves to."""
        answer = self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, condition: str) -> None:
        """Wait until a JavaScript expression is true."""
        self.wait_for(lambda: self.evaluate(condition), condition)

    def wait_for(self, is_done: Callable[[], Any], what: str = "done") -> None:
        """Wait until a function returns something true."""
        end = time.monotonic() + SECONDS
        while not is_done():
            assert time.monotonic() < end, f"never {what}; errors: {self.errors}"
            time.sleep(0.05)

    def choose(self, selector: str, path: Path) -> None:
        """Choose a file in an input, as a person does in the dialog."""
        root = self.send("DOM.getDocument")["root"]["nodeId"]
        node = self.send("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.send("DOM.setFileInputFiles", nodeId=node, files=[str(path.absolute())])

    def resize(self, width: int, height: int) -> None:
        """Show the page at a size, in pixels."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def screenshot(self, path: Path) -> Path:
        """Write the whole page as a PNG file."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", captureBeyondViewport=True)["data"]))
        return path

    def _watch(self, session: str) -> None:
        for domain in ("Runtime", "Log", "Network"):
            self._post(f"{domain}.enable", session=session)
        options = {"autoAttach": True, "waitForDebuggerOnStart": False, "flatten": True}
        self._post("Target.setAutoAttach", session=session, **options)

    def _post(self, method: str, session: str | None = None, **parameters: Any) -> int:
        self._sent += 1
        message = {"id": self._sent, "method": method, "params": parameters}
        if session := self._session if session is None else session:
            message["sessionId"] = session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        return self._sent

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            assert select.select([self._in], [], [], SECONDS)[0], "the browser does not answer"
            self._buffer += (read := os.read(self._in, 1 << 20))
            assert read, "the browser has ended"
        text, self._buffer = self._buffer.split(b"\0", 1)
        message: dict[str, Any] = json.loads(text)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, event: str, facts: dict[str, Any]) -> None:
        if event == "Target.attachedToTarget" and facts["targetInfo"]["type"] == "worker":
            self._watch(facts["sessionId"])
        elif event == "Network.requestWillBeSent" and not facts["request"]["url"].startswith(("blob:", "data:")):
            self.requests.append(facts["request"]["url"])
        elif event == "Runtime.exceptionThrown":
            self.errors.append(str(facts["exceptionDetails"]))
        elif (event == "Log.entryAdded" and facts["entry"]["level"] == "error") or (
            event == "Runtime.consoleAPICalled" and facts["type"] == "error"
        ):
            self.errors.append(str(facts))
