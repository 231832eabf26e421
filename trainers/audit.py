"""The gate before training: every sample is checked against the chat template itself, not our own spans.

A sample passes when each learned run of tokens decodes to exactly one wanted reply and its stop token, all of them in order, and
when the ids before it are exactly the prompt the exported model will be given for that reply.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from agentlm_sdk.errors import UserError
from agentlm_sdk.record import Trajectory, unpack_ids
from trainers.rendering import IGNORED, Rendered, Renderer, Tokenizer, as_dicts, wants_loss
from trainers.samples import Sample


class AuditError(UserError):
    """A sample would train on the wrong tokens; the message names it and shows the first difference."""


class AuditReport(BaseModel):
    """What passed. There is no report when something did not: `audit` raises."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples: int = 0
    trained_turns: int = 0
    trained_tokens: int = 0
    context_tokens: int = 0
    merged_turns: int = 0
    """Wanted replies kept as context because no prompt can end where they begin."""
    neutralised: int = 0
    """Control tokens found as text inside messages; they were tokenised as plain text."""
    template_hash: str = ""


def audit(samples: Sequence[Sample], renderer: Renderer) -> AuditReport:
    """Check every sample. Raises AuditError at the first that is wrong."""
    neutralised = 0
    for sample in samples:
        neutralised += _check(sample, renderer)
    trained = sum(sample.trained_tokens for sample in samples)
    return AuditReport(
        samples=len(samples),
        trained_turns=sum(len(trained_turns(sample)) for sample in samples),
        trained_tokens=trained,
        context_tokens=sum(sample.tokens for sample in samples) - trained,
        merged_turns=sum(len(sample.rendered.merged) for sample in samples),
        neutralised=neutralised,
        template_hash=renderer.template_hash,
    )


def trained_turns(sample: Sample) -> list[int]:
    """The messages that are to be learned."""
    return [
        turn
        for turn, message in enumerate(sample.conversation.messages)
        if wants_loss(message) and turn not in sample.rendered.merged
    ]


def _check(sample: Sample, renderer: Renderer) -> int:
    """Check one sample; the answer is how many control tokens its texts spelled out."""
    rendered, messages, tokenizer = sample.rendered, sample.conversation.messages, renderer.tokenizer
    where = f"{sample.conversation.source} sample {sample.conversation.id}"
    if len(rendered.ids) != len(rendered.labels):
        raise AuditError(f"{where}: {len(rendered.ids)} ids but {len(rendered.labels)} labels")
    if any(label not in (IGNORED, token) for token, label in zip(rendered.ids, rendered.labels, strict=True)):
        raise AuditError(f"{where}: a label differs from the token at its place")
    spelled = control_tokens_in(messages_text(sample), tokenizer)
    _check_text(sample, renderer, where, clean=not spelled)
    trained, wanted = trained_runs(rendered), trained_turns(sample)
    if len(trained) != len(wanted):
        raise AuditError(f"{where}: {len(wanted)} replies are to be learned, {len(trained)} runs of tokens are")
    for (start, end), turn in zip(trained, wanted, strict=True):
        place = f"{where}, message {turn}"
        if rendered.ids[end - 1] != renderer.stop_id:
            raise AuditError(f"{place}: the reply's stop token {renderer.family.stop} is not learned")
        learned = decode_after(tokenizer, rendered.ids, start, end)
        expected = renderer.reply_text(messages, turn)
        if learned != expected:
            raise AuditError(f"{place}: learned {learned[:80]!r} is not the reply {expected[:80]!r}")
        history = as_dicts(messages[:turn])
        if spelled:
            prompt = str(tokenizer.apply_chat_template(history, tokenize=False, add_generation_prompt=True))
            same = decode(tokenizer, rendered.ids[:start]) == prompt
        else:
            same = list(rendered.ids[:start]) == template_ids(tokenizer, history, opening=True)
        if not same:
            raise AuditError(f"{place}: what stands before the reply is not the prompt the chat template gives")
    return spelled


def _check_text(sample: Sample, renderer: Renderer, where: str, *, clean: bool) -> None:
    """The whole sample equals the template's rendering; where a message spells a control token, text and control tokens do."""
    tokenizer, ids, messages = renderer.tokenizer, list(sample.rendered.ids), as_dicts(sample.conversation.messages)
    if clean:
        if ids != template_ids(tokenizer, messages, opening=False):
            raise AuditError(f"{where}: the ids are not those of the chat template (template hash {renderer.template_hash[:12]})")
        return
    control = set(control_ids(tokenizer))
    skeleton = template_ids(tokenizer, [{**message, "content": "x"} for message in messages], opening=False)
    if [token for token in ids if token in control] != [token for token in skeleton if token in control]:
        raise AuditError(f"{where}: text of a message became a control token")
    if decode(tokenizer, ids) != str(tokenizer.apply_chat_template(messages, tokenize=False)):
        raise AuditError(f"{where}: the ids do not decode to the chat template's text")


def trained_runs(rendered: Rendered) -> list[tuple[int, int]]:
    """Start and end (exclusive) of each unbroken run of learned tokens."""
    bounds: list[tuple[int, int]] = []
    for position, label in enumerate(rendered.labels):
        if label == IGNORED:
            continue
        if bounds and bounds[-1][1] == position:
            bounds[-1] = (bounds[-1][0], position + 1)
        else:
            bounds.append((position, position + 1))
    return bounds


def control_ids(tokenizer: Tokenizer) -> list[int]:
    return [token for token, added in tokenizer.added_tokens_decoder.items() if added.special]


def control_tokens_in(text: str, tokenizer: Tokenizer) -> int:
    """How often `text` spells a control token of the tokenizer."""
    return sum(text.count(added.content) for added in tokenizer.added_tokens_decoder.values() if added.special)


def messages_text(sample: Sample) -> str:
    return "\0".join(message.content for message in sample.conversation.messages)


def template_ids(tokenizer: Tokenizer, messages: list[dict[str, str]], *, opening: bool) -> list[int]:
    """The ids the chat template itself gives."""
    ids = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False, add_generation_prompt=opening)
    return [int(token) for token in ids]


def decode(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def decode_after(tokenizer: Tokenizer, ids: Sequence[int], start: int, end: int) -> str:
    """The text of ids `start` to `end` as it stands after its neighbour (some tokenizers drop a leading space)."""
    before = max(start - 1, 0)
    return decode(tokenizer, ids[before:end])[len(decode(tokenizer, ids[before:start])) :]


class LoggedAgreement(BaseModel):
    """How our rendering compares with the ids a server logged for the same replies."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompts_equal: int = 0
    prompts_different: int = 0
    replies_equal: int = 0
    replies_different: int = 0
    """A sampler may write a text in other tokens than the tokenizer would; such replies are trained in the tokenizer's form."""


def compare_logged(trajectories: Sequence[Trajectory], renderer: Renderer) -> LoggedAgreement:
    """Compare every logged prompt and reply with our ids. Counts only; replies without logged ids are left out."""
    prompts, replies = [0, 0], [0, 0]
    for trajectory in trajectories:
        rendered = renderer.render(trajectory.messages)
        spans = {span.turn: span for span in rendered.spans}
        previous: list[int] = []
        for turn, message in enumerate(trajectory.messages):
            if message.prompt_token_ids is None or message.token_ids is None:
                continue
            prompt = previous[: message.prompt_shared] + unpack_ids(message.prompt_token_ids)
            sampled = unpack_ids(message.token_ids)
            span = spans[turn]
            prompts[prompt != list(rendered.ids[: span.start])] += 1
            replies[sampled != list(rendered.ids[span.start : span.end])] += 1
            previous = prompt + sampled
    return LoggedAgreement(
        prompts_equal=prompts[0], prompts_different=prompts[1], replies_equal=replies[0], replies_different=replies[1]
    )
