# SPDX-License-Identifier: Apache-2.0
"""The consumer that reads what dtrace printed at some time, from a file."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping

from ceilometer_plugin import consumer
from ceilometer_plugin.consumer import frames, kept, source


class Replay(kept.Kept):
    """What the scripts (name → text) printed, run after run, as one node called `name`."""

    def __init__(
        self, path: str | os.PathLike[str], scripts: Mapping[str, str], name: str = "replay"
    ) -> None:
        super().__init__()
        self._path = pathlib.Path(path)
        self._scripts = source.Scripts(scripts)
        self._name = name
        self._began: set[bytes] = set()
        self._parser = self._new_parser()

    def start(self) -> None:
        """Read it all."""
        try:
            with self._path.open("rb") as file:
                while piece := file.readline(frames.LINE_BYTES):
                    self._read(piece)
        except OSError as error:
            self._failure = str(error)
            return
        self._parser.end()
        self._failure = "the recording is at its end"

    def close(self) -> None:
        """Nothing is open."""

    def _read(self, piece: bytes) -> None:
        if piece.startswith(b"H|"):
            script = piece.split(b"|")[1]
            if script in self._began:
                # nobody begins twice: this is another run
                self._parser.end()
                self.keep_ended(self._frames.values())
                self._parser = self._new_parser()
                self._began, self._frames = set(), {}
            self._began.add(script)
        self._parser.feed(piece)

    def _new_parser(self) -> frames.Parser:
        return frames.Parser(
            self._scripts.shapes,
            begun=self._begun,
            frame=self._framed,
            final=self.keep_final,
            drops=self.keep_drops,
        )

    def _begun(self, hrtime_ns: int, wall_ns: int) -> None:
        self._run = f"{self._name}:{hrtime_ns}"
        self.keep_counting()

    def _framed(self, frame: consumer.Frame) -> None:
        self._frames[frame.script] = dataclasses.replace(frame, run=self._run)
