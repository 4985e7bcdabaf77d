"""Apply steering to a bare Hugging Face model: hooks while a context is open, nothing left behind after it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from trimtab.errors import InputError
from trimtab.models.conditions import Condition, ConditionReader, conditioned
from trimtab.models.families import HookPoint, head_slice, hook_point
from trimtab.models.layout import Layout, find_layout, state_of, with_state
from trimtab.models.rows import Forward, RowTracker, repeat_rows
from trimtab.steering import Intervention, PromptGate, Site, SiteEdit, Steering, SteeringVector

Row = Steering | SteeringVector | None


@contextmanager
def steer(
    hf: nn.Module,
    what: Row | Sequence[Row],
    direction: str = "elicit",
    multiplier: float | None = None,
    *,
    scale: str = "gap",
    prompt_lengths: Sequence[int] | Tensor | None = None,
) -> Iterator[None]:
    """Steer every forward and `generate()` of `hf` inside the context.

    Beams and `num_return_sequences` repeat rows; each copy gets its row's steering. Other hooks on the model stay and
    see the steered states. Leaving restores the model bit for bit. Works with `input_ids` or `inputs_embeds`, with left
    or right padding, without a cache or with a dynamic or static one.

    "Prompt" means what `generate()` was given. Outside `generate()` it is the tokens of the forward that begins a
    sequence (an empty cache or none), and single tokens on a filled cache are the response; where one forward holds
    both, or the prompt comes in several, say where the prompts end with `prompt_lengths`.

    Args:
        hf: Any decoder-only Hugging Face model, wrapped (by PEFT, say) or not; not compiled.
        what: A vector or steering for every row, or a sequence with one entry a row of the batch (None = plain).
        direction: `elicit` or `suppress`, for entries that are vectors.
        multiplier: 1 = as learned; None = the vector's calibrated one if stored, else 1. For entries that are vectors.
        scale: `gap` or `published`, see `trimtab.steering.Factors.value`.
        prompt_lengths: Tokens of each row's prompt, prefix included, pads not.

    Raises:
        InputError: A vector made for another width or depth, a compiled model, a model that is being steered already, a
            site the model does not have, or (in a forward) a batch that does not fit the entries.
    """
    layout = find_layout(hf)
    if is_steered(layout):
        raise InputError("this model is being steered already; compose vectors instead: a.elicit() + b.suppress()")
    single = not isinstance(what, Sequence)
    entries = [what] if single else what
    resolved = {id(entry): resolve(entry, direction, multiplier, scale) for entry in entries}
    for steering in resolved.values():
        check_size(steering, layout)
    plan = Plan.build([resolved[id(entry)] for entry in entries], everywhere=single)
    points = {site: hook_point(layout.blocks[site.layer], site, layout.model_type) for site in plan.sites}
    hooked = [*(point.module for point in points.values()), *(layout.blocks[layer] for layer in plan.conditions)]
    refuse_compiled(hf, [layout.stack, *hooked])
    prefixes = [group.steering.prefix_ids for group in plan.groups]
    tracker = RowTracker(layout.stack, layout.model.get_input_embeddings(), prefixes, prompt_lengths)
    with ExitStack() as undo:
        if plan.groups:
            _hook(undo, layout, plan, points, tracker)
            _follow_generate(undo, layout.model, tracker)
            _renew_forward(undo, layout.stack)
            _follow_checkpoints(undo, layout.stack, tracker)
            _no_compile(undo, layout.model)
        yield


def is_steered(layout: Layout) -> bool:
    """Whether a `steer()` of this model is open."""
    return any(isinstance(hook, _Enter) for hook in layout.stack._forward_pre_hooks.values())


def resolve(
    entry: Row, direction: str = "elicit", multiplier: float | None = None, scale: str = "gap"
) -> Steering | None:
    """A row's steering: of a vector the one of that direction; InputError for anything that cannot steer."""
    if entry is not None and not isinstance(entry, (Steering, SteeringVector)):
        raise InputError(
            f"cannot steer with a {type(entry).__name__}; give a SteeringVector, a Steering, None or a list"
        )
    return entry.steering(direction, multiplier, scale) if isinstance(entry, SteeringVector) else entry


def check_size(steering: Steering | None, layout: Layout) -> None:
    """Raise InputError if the steering was made for a model of another width or depth."""
    if steering is None:
        return
    for intervention in steering.interventions:
        site, width = intervention.site, intervention.transform.width
        if site.layer >= layout.n_blocks:
            raise InputError(f"{steering.label}: no site {site}; the model has blocks 0 to {layout.n_blocks - 1}")
        if site.kind in ("resid_pre", "resid_post") and width != layout.hidden_size:
            raise InputError(
                f"{steering.label} at {site} has width {width}, the model's hidden size is {layout.hidden_size}; "
                "fit a vector for this model"
            )
        gate = intervention.gate
        if isinstance(gate, PromptGate) and len(gate.direction) != layout.hidden_size:
            raise InputError(
                f"{steering.label} has a condition of width {len(gate.direction)}, the model's hidden size is "
                f"{layout.hidden_size}; fit a vector for this model"
            )
    for name, made, has in (
        ("hidden size", steering.hidden_size, layout.hidden_size),
        ("number of blocks", steering.n_blocks, layout.n_blocks),
    ):
        if made is not None and made != has:
            raise InputError(
                f"{steering.label} was made for a model with {name} {made}, this one has {has}; "
                "fit a vector for this model"
            )


def refuse_compiled(hf: nn.Module, hooked: Iterable[nn.Module]) -> None:
    """Raise InputError if a module to be hooked, or one that holds it, was compiled.

    Hooks that are added afterwards are skipped without a word.
    """
    places = set(map(id, hooked))
    for path, module in hf.named_modules():
        if _is_compiled(module) and any(id(part) in places for part in module.modules()):
            raise InputError(
                f"this model is compiled ({path or 'as a whole'}), and hooks added after torch.compile are ignored; "
                "steer the plain model (keep a reference to it, or model._orig_mod) or load it again"
            )


def _is_compiled(module: nn.Module) -> bool:
    forward = vars(module).get("forward")
    return (
        "_orig_mod" in module._modules
        or module._compiled_call_impl is not None
        or "_torchdynamo_orig_callable" in getattr(forward, "__dict__", {})
    )


@dataclass(frozen=True, eq=False)
class Group:
    """Rows that get the same steering.

    Attributes:
        steering: What they get.
        rows: Their places among the caller's entries, or None for every row of any batch.
    """

    steering: Steering
    rows: tuple[int, ...] | None


@dataclass(frozen=True, eq=False)
class Plan:
    """Who gets what in a batch of `n` entries (n = None: one steering for every row)."""

    groups: tuple[Group, ...]
    n: int | None

    @classmethod
    def build(cls, rows: Sequence[Steering | None], *, everywhere: bool) -> Plan:
        """Group the entries by steering; rows of None take no part."""
        if everywhere:
            steering = rows[0]
            return cls((Group(steering, None),) if steering is not None else (), None)
        if not rows:
            raise InputError("the list of steerings is empty; give one entry a row, None for plain rows")
        places: dict[int, list[int]] = {}
        for place, steering in enumerate(rows):
            if steering is not None:
                places.setdefault(id(steering), []).append(place)
        by_id = {id(steering): steering for steering in rows if steering is not None}
        same = len(places) == 1 and len(next(iter(places.values()))) == len(rows)
        groups = tuple(Group(by_id[key], None if same else tuple(place)) for key, place in places.items())
        return cls(groups, len(rows))

    @property
    def sites(self) -> tuple[Site, ...]:
        """Every site that somebody's steering edits."""
        found = {i.site for group in self.groups for i in group.steering.interventions}
        return tuple(sorted(found, key=str))

    @property
    def conditions(self) -> Mapping[int, Sequence[Condition]]:
        """By block whose output they read: every condition that somebody's steering depends on."""
        found: dict[int, dict[Condition, None]] = {}
        for group in self.groups:
            for gate in (i.gate for i in group.steering.interventions):
                if isinstance(gate, PromptGate):
                    found.setdefault(gate.layer, {})[gate, group.steering.prefix_ids] = None
        return {layer: tuple(conditions) for layer, conditions in found.items()}


@dataclass(eq=False)
class _SiteHook:
    """Runs the edits of one site on the state that flows through it."""

    site: Site
    plan: Plan
    tracker: RowTracker
    head_size: int | None
    _edits: dict[tuple[int, tuple[int, ...], torch.device], SiteEdit] = field(default_factory=dict)
    _places: dict[tuple[int, int, torch.device], Tensor] = field(default_factory=dict)

    def on_output(self, _: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        """Forward hook."""
        return with_state(output, self.edit(state_of(output)))

    def on_input(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Forward pre-hook with kwargs: the state is the first positional argument or `hidden_states`."""
        if args:
            return (self.edit(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": self.edit(kwargs["hidden_states"])}

    def edit(self, state: Tensor) -> Tensor:
        """The state (b, s, d) after every group's edits, slice of one head where the site names one."""
        if self.site.head is None:
            return self._edit_rows(state)
        head = head_slice(self.site, self.head_size, state.shape[-1])
        edited = self._edit_rows(state[..., head])
        return torch.cat([state[..., : head.start], edited, state[..., head.stop :]], dim=-1)

    def _edit_rows(self, state: Tensor) -> Tensor:
        forward = self.tracker.current
        if forward is None:
            raise InputError(
                f"the module of site {self.site} ran outside a forward of the model; run the whole model, and switch "
                "gradient checkpointing on before steer() is entered, not inside"
            )
        if state.dim() != 3 or state.shape[:2] != forward.shape:
            raise InputError(
                f"site {self.site}: the state is {tuple(state.shape)}, not (rows, tokens, width) of {forward.shape} "
                "tokens; edits there cannot tell rows apart, use resid_pre or resid_post"
            )
        if self.plan.n is not None and state.shape[0] % self.plan.n:
            raise InputError(
                f"steering has {self.plan.n} entries but the batch has {state.shape[0]} rows; "
                "give one entry a row, or one for all"
            )
        edited: list[tuple[Tensor, Tensor]] = []
        for number, group in enumerate(self.plan.groups):
            here = [
                (k, i)
                for k, i in enumerate(group.steering.interventions)
                if i.site == self.site and not forward.picks_none(i.positions)
            ]
            if here and group.rows is None:
                return self._edit_group(state, None, number, here, forward)
            if here:
                rows = self._rows(number, state)
                edited.append((rows, self._edit_group(state.index_select(0, rows), rows, number, here, forward)))
        if not edited:
            return state
        return state.index_copy(0, torch.cat([rows for rows, _ in edited]), torch.cat([part for _, part in edited]))

    def _edit_group(
        self,
        state: Tensor,
        rows: Tensor | None,
        number: int,
        here: Sequence[tuple[int, Intervention]],
        forward: Forward,
    ) -> Tensor:
        """A group's rows of the state (n, s, d), edited; `rows` are their places in the batch, None = all of it."""
        steering, width = self.plan.groups[number].steering, here[0][1].transform.width
        if width != state.shape[-1]:
            raise InputError(f"{steering.label} at {self.site} has width {width}, the state there {state.shape[-1]}")
        edit = self._prepared(number, here, state.device)
        masks = [_tokens(i, forward, steering.prefix_ids) for _, i in here]
        masks = [mask if mask is None else mask.to(state.device) for mask in masks]
        return edit(state, [m if m is None or rows is None else m.index_select(0, rows) for m in masks])

    def _prepared(self, number: int, here: Sequence[tuple[int, Intervention]], device: torch.device) -> SiteEdit:
        key = (number, tuple(k for k, _ in here), device)
        if key not in self._edits:
            with torch.inference_mode(False):  # the next forward may need gradients
                self._edits[key] = SiteEdit.build([i for _, i in here], device)
        return self._edits[key]

    def _rows(self, number: int, state: Tensor) -> Tensor:
        """Where a group's rows lie in the batch."""
        key = (number, state.shape[0], state.device)
        if key not in self._places:
            assert self.plan.n is not None
            member = torch.zeros(self.plan.n, dtype=torch.int64)
            member[list(self.plan.groups[number].rows or ())] = 1
            with torch.inference_mode(False):
                places = repeat_rows(member, state.shape[0], "steering").nonzero()[:, 0]
                self._places[key] = places.to(state.device)
        return self._places[key]


def _tokens(intervention: Intervention, forward: Forward, prefix_ids: tuple[int, ...]) -> Tensor | None:
    """The tokens (b, s) of a forward that an intervention edits; None = all."""
    mask, gate = forward.mask(intervention.positions, prefix_ids), intervention.gate
    return conditioned(forward, (gate, prefix_ids), mask) if isinstance(gate, PromptGate) else mask


class _Enter:
    """The stack's pre-hook; its own type so that nested steering is recognised."""

    def __init__(self, tracker: RowTracker) -> None:
        self.tracker = tracker

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self.tracker.enter(module, args, kwargs)


def _hook(undo: ExitStack, layout: Layout, plan: Plan, points: Mapping[Site, HookPoint], tracker: RowTracker) -> None:
    """Register the hooks of a plan; they run before other people's, which then see the steered states."""
    stack = layout.stack
    undo.callback(stack.register_forward_pre_hook(_Enter(tracker), prepend=True, with_kwargs=True).remove)
    undo.callback(stack.register_forward_hook(tracker.leave, always_call=True).remove)
    for site, point in points.items():
        hook = _SiteHook(site, plan, tracker, layout.head_size)
        if point.side == "output":
            undo.callback(point.module.register_forward_hook(hook.on_output, prepend=True).remove)
        else:
            undo.callback(point.module.register_forward_pre_hook(hook.on_input, prepend=True, with_kwargs=True).remove)
    for layer, conditions in plan.conditions.items():  # after the edits' hooks, which makes them run before
        reader = ConditionReader(conditions, tracker)
        undo.callback(layout.blocks[layer].register_forward_hook(reader, prepend=True).remove)


def _follow_generate(undo: ExitStack, model: nn.Module, tracker: RowTracker) -> None:
    """Tell the tracker of every `model.generate()`: its later forwards alone do not show where the prompt ended."""
    generate = getattr(model, "generate", None)
    if generate is None:
        return

    @functools.wraps(generate)
    def followed(*args: Any, **kwargs: Any) -> Any:
        with tracker.generation(args, kwargs):
            return generate(*args, **kwargs)

    _replace(undo, model, "generate", followed)


def _follow_checkpoints(undo: ExitStack, stack: nn.Module, tracker: RowTracker) -> None:
    """Make what gradient checkpointing computes again in the backward belong to the forward it came from.

    Until transformers 5.22 the hooks of a block run again with it; later ones, only those of the parts inside it.
    """
    for module in stack.modules():
        checkpoint = vars(module).get("_gradient_checkpointing_func")
        if checkpoint is not None:

            def followed(function: Callable[..., Any], *args: Any, checkpoint: Any = checkpoint, **kwargs: Any) -> Any:
                return checkpoint(tracker.bound(function), *args, **kwargs)

            _replace(undo, module, "_gradient_checkpointing_func", followed)


def _renew_forward(undo: ExitStack, stack: nn.Module) -> None:
    """Make torch.compile trace the stack again, should a function that calls the model have been compiled around it.

    What was traced before the hooks were there would run without them; compiled code does look at whether `forward` is
    the one it knows.
    """
    forward = stack.forward

    @functools.wraps(forward)
    def renewed(*args: Any, **kwargs: Any) -> Any:
        return forward(*args, **kwargs)

    _replace(undo, stack, "forward", renewed)


def _replace(undo: ExitStack, module: nn.Module, name: str, function: Callable[..., Any]) -> None:
    """Put a function in place of a method of one object until `undo` closes."""
    had, before = name in vars(module), vars(module).get(name)
    setattr(module, name, function)
    undo.callback(lambda: setattr(module, name, before) if had else delattr(module, name))


def _no_compile(undo: ExitStack, model: nn.Module) -> None:
    """Keep `generate` from compiling steered forwards by itself, as it does on a GPU with a static cache."""
    generation = getattr(model, "generation_config", None)
    if generation is not None:
        before = generation.disable_compile
        generation.disable_compile = True
        undo.callback(lambda: setattr(generation, "disable_compile", before))
