# SPDX-License-Identifier: Apache-2.0
"""Long random lives of a pool: content and sums hold after every step, and after restarts."""

import io
import random

import pytest

from smartos_emulator import storage
from tests.unit.emulator import storage_node

STEPS = 40


class Life:
    """A pool, and what should be in it: files by dataset or snapshot."""

    def __init__(self, directory, seed):
        self.directory = directory
        self.pool = storage_node.make(directory)
        self.random = random.Random(seed)
        self.files = {}
        self.count = 0

    def name(self):
        self.count += 1
        return f"n{self.count}"

    def datasets(self):
        return [name for name in self.files if "@" not in name]

    def snapshots(self):
        return [name for name in self.files if "@" in name]

    def step(self):
        actions = [
            self.create,
            self.write,
            self.write,
            self.snapshot,
            self.snapshot,
            self.clone,
            self.rollback,
            self.promote,
            self.rename,
            self.destroy,
            self.restart,
            self.send,
        ]
        try:
            self.random.choice(actions)()
        except (storage.StorageError, IndexError):
            # Refused, or nothing there to do it to: nothing may have changed.
            pass

    def create(self):
        parent = self.random.choice(["zones", *self.datasets()])
        name = f"{parent}/{self.name()}"
        self.pool.create(name)
        self.files[name] = {}

    def write(self):
        name = self.random.choice(self.datasets())
        path = f"f{self.random.randrange(4)}"
        data = self.random.randbytes(self.random.choice([0, 10, 5000, 70_000]))
        (self.pool.directory(name) / path).write_bytes(data)
        self.files[name][path] = data

    def snapshot(self):
        name = self.random.choice(self.datasets())
        short = self.name()
        self.pool.snapshot(f"{name}@{short}")
        self.files[f"{name}@{short}"] = dict(self.files[name])

    def clone(self):
        source = self.random.choice(self.snapshots())
        name = f"zones/{self.name()}"
        self.pool.clone(source, name)
        self.files[name] = dict(self.files[source])

    def rollback(self):
        source = self.random.choice(self.snapshots())
        self.pool.rollback(source, destroy_newer=True)
        self.files[source.partition("@")[0]] = dict(self.files[source])
        self.forget_missing()

    def promote(self):
        name = self.random.choice(self.datasets())
        origin = self.pool.origin(name)
        self.pool.promote(name)
        old = origin.partition("@")[0]
        for snap in self.pool.snapshots(name):
            before = f"{old}@{snap.partition('@')[2]}"
            if snap not in self.files:
                self.files[snap] = self.files.pop(before)

    def rename(self):
        old = self.random.choice(self.datasets())
        new = f"zones/{self.name()}"
        self.pool.rename(old, new)
        self.files = {self.renamed(name, old, new): files for name, files in self.files.items()}

    @staticmethod
    def renamed(name, old, new):
        inside = name == old or name.startswith((f"{old}/", f"{old}@"))
        return new + name[len(old) :] if inside else name

    def destroy(self):
        self.pool.destroy(
            self.random.choice(list(self.files)), recursive=self.random.random() < 0.3
        )
        self.forget_missing()

    def forget_missing(self):
        self.files = {name: files for name, files in self.files.items() if self.pool.exists(name)}

    def restart(self):
        self.pool.close()
        self.pool = storage_node.make(self.directory)

    def send(self):
        source = self.random.choice(self.snapshots())
        name = f"zones/{self.name()}"
        short = source.partition("@")[2]
        self.pool.receive(name, io.BytesIO(storage_node.sent(self.pool, source)))
        self.files[name] = dict(self.files[source])
        self.files[f"{name}@{short}"] = dict(self.files[source])

    def check(self):
        for name, files in self.files.items():
            folder = self.pool.directory(name)
            found = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
            assert found == files, name
        self.check_sums()

    def check_sums(self):
        pool = self.pool
        total = 0
        for name in ["zones", *pool.children("zones", kinds={"filesystem", "volume"})]:
            used, mine, snaps, below, held, written, referenced = (
                pool.number(name, prop)
                for prop in (
                    "used",
                    "usedbydataset",
                    "usedbysnapshots",
                    "usedbychildren",
                    "usedbyrefreservation",
                    "written",
                    "referenced",
                )
            )
            assert used == mine + snaps + below + held, name
            assert 0 <= mine <= referenced, name
            assert 0 <= written <= referenced, name
            total += mine + snaps
        assert pool.allocated("zones") == total
        everything = {}
        for dataset in pool.datasets.values():
            for view in (dataset.view, *(snap.view for snap in dataset.snapshots.values())):
                everything.update(view.extents)
        assert sum(extent.size for extent in everything.values()) == total


@pytest.mark.parametrize("seed", range(3))
def test_content_and_sums_hold_through_a_long_life(tmp_path, seed):
    life = Life(tmp_path, seed)
    for _ in range(STEPS):
        life.step()
        life.check()
    life.pool.close()
