"""Parts of pages that are generated when the site is built, so that they always match the code.

A page asks for one with a comment: `<!-- generate: commands -->`. A site that would load anything from another host is
refused.
"""

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from annotated_types import Ge, Gt, Le, Lt
from mkdocs.exceptions import PluginError
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from typer.main import get_command

from sam3d_nnunet.cli.main import app
from sam3d_nnunet.nnunet.names import trainer_groups
from sam3d_nnunet.planning.settings import SAM3DSettings
from sam3d_nnunet.simulation.protocols import FAMILIES
from sam3d_nnunet.workflow.comparison import Comparison

ROOT = Path(__file__).parents[1]
MARKER = re.compile(r"^<!-- (generate|include): (.+) -->$", re.MULTILINE)
OUTSIDE = re.compile(
    r"""<(?:script|link|img|iframe|source|video|audio|object|embed)\b[^>]*\b(?:src|href|srcset|data)=["']?(?:https?:)?//"""
    r"""|(?:@import\s+|url\()["']?(?:https?:)?//""",
    re.IGNORECASE,
)
"""What makes a browser load something from another host, in HTML and CSS."""
BOUNDS = {Ge: "ge", Gt: "gt", Le: "le", Lt: "lt"}
SIGNS = {Ge: "at least", Gt: "above", Le: "at most", Lt: "below"}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace each marker of a page by what it asks for (mkdocs calls this for each page).

    Raises:
        PluginError: a page asks for something that does not exist.
    """
    return MARKER.sub(_replacement, markdown)


def on_post_build(config: Any, **_: Any) -> None:
    """Look through the built pages and styles (mkdocs calls this at the end).

    Raises:
        PluginError: one of them would load something from another host.
    """
    for file in sorted(Path(config.site_dir).rglob("*")):
        if file.suffix in (".html", ".css"):
            found = OUTSIDE.search(file.read_text(encoding="utf-8"))
            if found:
                raise PluginError(f"{file} would load something from another host: {found[0]}. Keep it in docs/.")


def commands() -> str:
    """Every command of `sam3d`: a table of all, then each with its example and its options."""
    group = get_command(app)
    found = list(_commands(group.commands, group.context_class(group, info_name="sam3d")))
    rows = []
    for context, command in found:
        path = context.command_path
        summary = inspect.cleandoc(command.help).split("\n\n")[0]
        rows.append([f"[{path}](#{path.replace(' ', '-')})", _text(summary)])
    return "\n".join([_table(["command", "what it does"], rows), "", *(_command(*one) for one in found)])


def settings() -> str:
    """The keys of a plan's block "sam3d"."""
    return _table(["key", "default", "meaning"], _keys(SAM3DSettings))


def comparison() -> str:
    """The keys of a recipe's block "benchmark"."""
    return _table(["key", "default", "meaning"], _keys(Comparison))


def trainers() -> str:
    """The trainers of each group of the registry."""
    head = ["trainer", "what it trains", "module below `sam3d_nnunet`"]
    tables = {
        group: _table(head, [[f"`{name}`", _text(t.summary), f"`{t.module}`"] for name, t in members.items()])
        for group, members in trainer_groups().items()
    }
    return "\n\n".join(f"### {group}\n\n{table}" for group, table in tables.items())


def protocols() -> str:
    """The protocols of evaluations."""
    families = FAMILIES.values()
    rows = [[f"`{f.form}`", _text(f.sentence.format(clicks="N clicks", count="N"))] for f in families]
    return _table(["protocol", "clicks of a case"], rows)


def recipes() -> str:
    """The installed recipes."""
    files = sorted((ROOT / "plans").glob("*.json"))
    rows = [[f"`{file.stem}`", json.loads(file.read_text(encoding="utf-8"))["description"]] for file in files]
    return _table(["recipe", "what it plans"], rows)


GENERATORS = {f.__name__: f for f in (commands, settings, comparison, trainers, protocols, recipes)}


def _replacement(marker: re.Match) -> str:
    kind, name = marker.groups()
    if kind == "generate" and name in GENERATORS:
        return GENERATORS[name]()
    if kind == "include" and (ROOT / name).is_file():
        return _included(ROOT / name)
    raise PluginError(f"A page asks to {kind} {name!r}; docs/hooks.py knows {', '.join(GENERATORS)}, and files.")


def _included(file: Path) -> str:
    """A Markdown file of the repository's root, its links seen from docs/."""
    text = file.read_text(encoding="utf-8")
    return re.sub(r"\]\(docs/", "](", text)


def _commands(commands: dict[str, Any], parent: Any) -> Iterator[tuple[Any, Any]]:
    """Context and command of each, those of subgroups included."""
    for name, command in commands.items():
        context = command.context_class(command, info_name=name, parent=parent)
        if hasattr(command, "commands"):
            yield from _commands(command.commands, context)
        else:
            yield context, command


def _command(context: Any, command: Any) -> str:
    parts = [f"## {context.command_path}", inspect.cleandoc(command.help)]
    if command.epilog:
        parts.append(f"```\n{command.epilog.removeprefix('Example: ')}\n```")
    records = [p.get_help_record(context) for p in command.get_params(context) if p.name != "help"]
    rows = [[f"`{names}`", _text(meaning)] for names, meaning in filter(None, records)]
    if rows:
        parts.append(_table(["argument or option", "meaning"], rows))
    return "\n\n".join([*parts, ""])


def _keys(model: type[BaseModel], prefix: str = "") -> Iterator[list[str]]:
    for name, field in model.model_fields.items():
        if inspect.isclass(field.annotation) and issubclass(field.annotation, BaseModel):
            yield from _keys(field.annotation, f"{prefix}{name}.")
        else:
            yield [f"`{prefix}{name}`", _default(field), _meaning(field)]


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if isinstance(value, list) and value and isinstance(value[0], BaseModel):
        return "see below"
    return f"`{json.dumps(value)}`"


def _meaning(field: FieldInfo) -> str:
    """The description, with the range of numbers."""
    bounds = {kind: getattr(m, key) for m in field.metadata for kind, key in BOUNDS.items() if isinstance(m, kind)}
    if Ge in bounds and Le in bounds:
        limits = [f"{bounds[Ge]} to {bounds[Le]}"]
    else:
        limits = [f"{SIGNS[kind]} {bound}" for kind, bound in bounds.items()]
    return "; ".join(filter(None, [_text(field.description or ""), *limits]))


def _table(head: list[str], rows: Iterator[list[str]] | list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(text: str) -> str:
    """In one cell of a table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
