# SPDX-License-Identifier: Apache-2.0
"""imgadm sources: where images may come from."""

import subprocess
import tempfile
from typing import Any

from smartos_emulator import js
from smartos_emulator.imgadm import context, database, errors, options, table
from smartos_emulator.imgadm import sources as sources_module

Source = sources_module.Source


def configured(run: context.Run, channel: str | None = None) -> list[Source]:
    """The sources in use; two entries for the same one count once."""
    found: list[Source] = []
    for info in run.config.get("sources", [database.DEFAULT_SOURCE]):
        try:
            source = sources_module.create(info, run.request, channel)
        except js.JavaScriptError as error:
            raise errors.abort(str(error), "ReferenceError") from None
        if not any(source.same_as(other) for other in found):
            found.append(source)
    return found


def sources(run: context.Run, parsed: options.Parsed) -> None:
    """imgadm sources"""
    if parsed.arguments:
        raise errors.usage("unexpected args: " + " ".join(parsed.arguments))
    if parsed.add_docker_hub:
        parsed.options.update(a="https://docker.io", type="docker")
    if sum(bool(one) for one in (parsed.e, parsed.a, parsed.d, parsed.check)) > 1:
        raise errors.usage('cannot specify more than one of "-a", "-d", "-e", and "-c"')
    if parsed.e:
        _edit(run, bool(parsed.force))
    elif parsed.a:
        _add(run, parsed)
    elif parsed.d:
        _delete(run, parsed.d)
    elif parsed.check:
        run.call.out(_checked(configured(run)))
    else:
        _list(run, parsed)


def _list(run: context.Run, parsed: options.Parsed) -> None:
    rows: list[dict[str, Any]] = []
    for source in configured(run):
        insecure = js.UNDEFINED if source.insecure is None else source.insecure
        rows.append({"url": source.url, "type": source.type, "insecure": insecure})
    if parsed.json:
        run.log(js.dumps(rows, 2))
    elif parsed.verbose:
        run.call.out(table.render(rows, ["url", "type", "insecure"]))
    else:
        run.call.out("".join(f"{row['url']}\n" for row in rows))


def _add(run: context.Run, parsed: options.Parsed) -> None:
    present = configured(run)
    info = {"url": parsed.a, "type": parsed.type, "insecure": parsed.insecure}
    source = sources_module.Source(parsed.a, parsed.type, parsed.insecure)
    known = next((other for other in present if other.same_as(source)), None)
    if known:
        run.log(f"Already have {known}, no change")
        return
    source = sources_module.create(info, run.request)
    if not parsed.force:
        source.ping()
    kept = run.config.setdefault("sources", [dict(database.DEFAULT_SOURCE)])
    kept.append(source.to_json())
    run.save_config()
    run.log(f"Added {source}")


def _delete(run: context.Run, url: str) -> None:
    present = configured(run)
    wanted = sources_module.normal_url(url)
    gone = [source for source in present if source.normal_url == wanted]
    if not gone:
        run.log(f'Do not have image source "{url}", no change')
        return
    _keep(run, [source for source in present if source not in gone])
    for source in gone:
        run.log(f"Deleted {source}")


def _keep(run: context.Run, kept: list[Source]) -> None:
    run.config["sources"] = [source.to_json() for source in kept]
    run.save_config()


def _checked(found: list[Source]) -> str:
    rows = []
    for source in found:
        row: dict[str, Any] = {"url": source.url, "type": source.type, "ok": True}
        try:
            source.ping()
        except errors.ImgadmError as error:
            row.update(ok=False, error=str(error))
        rows.append(row)
    return table.render(rows, ["url", "type", "ok", "error"])


_EDIT_NOTE = """
#
# One source a line:
#
#   URL TYPE [OPTIONS]
#
# TYPE is "imgapi" (also when left out), "docker" or "dsapi"; the only option is "insecure".
# What follows a "#" is a comment.
#
"""


def _edit(run: context.Run, force: bool) -> None:
    present = configured(run)
    before = "\n".join(_edit_line(source) for source in present) + "\n" + _EDIT_NOTE
    with tempfile.NamedTemporaryFile("w+", suffix=".txt") as file:
        file.write(before)
        file.flush()
        status = _editor(run, file.name)
        if status:
            run.warn(f"Error editing image sources: {status} (ignoring)")
            return
        with open(file.name) as again:
            after = _sources_of(run, again.read())
    if [one.to_json() for one in after] == [one.to_json() for one in present]:
        run.log("Image sources unchanged")
        return
    _replace(run, present, after, force)


def _edit_line(source: Source) -> str:
    option = " insecure" if source.insecure else ""
    return f"{source.url}  {source.type}{option}"


def _editor(run: context.Run, path: str) -> int:
    """Run vi on a file, on the caller's terminal."""
    streams = (run.call.stdin, run.call.stdout, run.call.stderr)
    stdin, stdout, stderr = (stream.fileno() for stream in streams)
    words = ["vi", "-f", path]
    try:
        return subprocess.call(words, stdin=stdin, stdout=stdout, stderr=stderr, env=run.call.env)
    except FileNotFoundError:
        raise errors.abort("spawn ENOENT", "Error") from None


def _sources_of(run: context.Run, text: str) -> list[Source]:
    found = []
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if not words:
            continue
        options = words[2].split(",") if len(words) > 2 else []
        for option in options:
            if option != "insecure":
                raise errors.usage(f"unknown source option: {option}")
        kind = words[1] if len(words) > 1 else "imgapi"
        if kind not in sources_module.TYPES:
            allowed = '", "'.join(sources_module.TYPES)
            message = f'type "{kind}" for source url "{words[0]}" is invalid: must be one of'
            raise errors.ImgadmError("ConfigError", f'{message} "{allowed}"')
        found.append(Source(words[0], kind, True if options else None, None, run.request))
    return found


def _replace(run: context.Run, present: list[Source], after: list[Source], force: bool) -> None:
    old = [source.to_json() for source in present]
    new = [source.to_json() for source in after]
    added = [source for source in after if source.to_json() not in old]
    gone = [source for source in present if source.to_json() not in new]
    if not force:
        for source in added:
            source.ping()
    _keep(run, after)
    for source in gone:
        run.log(f"Deleted {source}")
    if not gone:
        run.log("Reordered image sources")
    for source in added:
        run.log(f"Added {source}")
