"""Shell families of the starter suite: questions about files, and chores that change them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from shlex import quote

from agentlm_sdk.suites import NAMES, WORDS, Draft, Family, between, chore, pick, question, several
from agentlm_sdk.tasks import Script, ScriptJudge

ROOTS = ("/srv", "/opt", "/home", "/mnt")
EXTENSIONS = ("txt", "log", "csv", "md", "dat", "conf", "html", "json")
KEYS = ("port", "level", "limit", "size", "color", "owner", "mode", "speed", "depth", "host", "user", "path", "width")
MODES = ("600", "640", "644", "660", "700", "711", "740", "744", "750", "755", "770", "400", "440", "444", "500")

Files = Mapping[str, Sequence[str]]
"""Name in a folder -> the lines of the file; a name that ends with a slash is a folder."""


def new_folder(rng: random.Random) -> str:
    return f"{pick(rng, ROOTS)}/{pick(rng, WORDS)}"


def file_names(rng: random.Random, count: int, extension: str | None = None) -> list[str]:
    """Different names; of one extension drawn here unless it is given."""
    extension = extension or pick(rng, EXTENSIONS)
    return [f"{word}.{extension}" for word in several(rng, WORDS, count)]


def word_lines(rng: random.Random, count: int) -> list[str]:
    return [f"{pick(rng, WORDS)} {pick(rng, WORDS)}" for _ in range(count)]


def write(folder: str, files: Files) -> str:
    """A script that makes the folder with these files."""
    script = ["set -e", f"mkdir -p {folder}", f"cd {folder}"]
    for name, lines in files.items():
        text = " ".join(quote(line) for line in lines)
        script.append(f"mkdir {name}" if name.endswith("/") else f"printf '%s\\n' {text} > {name}" if text else f"touch {name}")
    return "\n".join(script)


def write_zeros(folder: str, sizes: Mapping[str, int]) -> str:
    """A script that makes the folder with files of these sizes."""
    return "\n".join([write(folder, {}), *(f"head -c {size} /dev/zero > {name}" for name, size in sizes.items())])


def exactly(
    folder: str, files: Files, *, links: Mapping[str, str] | None = None, modes: Mapping[str, str] | None = None
) -> ScriptJudge:
    """Passes when the folder holds these files and links and nothing else, with these lines and these modes."""
    kinds = {name.rstrip("/"): "d" if name.endswith("/") else "f" for name in files} | dict.fromkeys(links or {}, "l")
    listing = "\n".join(f"{kinds[name]} {name}" for name in sorted(kinds))
    checks = ["set -e", f"cd {folder}"]
    checks.append(f"[ \"$(find . -mindepth 1 -printf '%y %P\\n' | LC_ALL=C sort -k 2)\" = {quote(listing)} ]")
    for name, lines in files.items():
        if not name.endswith("/"):
            checks.append(f'[ "$(cat {name})" = {quote(chr(10).join(lines))} ]')
    checks += [f"[ {link} -ef {target} ]" for link, target in (links or {}).items()]
    checks += [f"[ $(stat -c %a {name}) = {mode} ]" for name, mode in (modes or {}).items()]
    return ScriptJudge(scripts=[Script(code="\n".join(checks))])


# Questions


def count_files(rng: random.Random) -> Draft:
    folder = new_folder(rng)
    wanted, other = several(rng, EXTENSIONS, 2)
    count = between(rng, 3, 24)
    names = several(rng, WORDS, count + between(rng, 2, 9))
    files = {f"{name}.{wanted if place < count else other}": () for place, name in enumerate(names)}
    return question(
        rng,
        "shell",
        wordings=(
            f"How many .{wanted} files are in {folder}?",
            f"Count the .{wanted} files in {folder}.",
            f"What is the number of .{wanted} files in {folder}?",
            f"In {folder}, how many files end in .{wanted}?",
            f"Find out how many .{wanted} files {folder} holds.",
        ),
        form="number",
        setup=write(folder, files),
        steps=[("I count the files by extension.", f"ls {folder}/*.{wanted} | wc -l")],
        expected=count,
    )


def count_lines(rng: random.Random) -> Draft:
    folder = new_folder(rng)
    name, other = file_names(rng, 2)
    count = between(rng, 3, 99)
    setup = f"{write(folder, {})}\nseq {count} > {name}\nseq {count + between(rng, 1, 9)} > {other}"
    file = f"{folder}/{name}"
    return question(
        rng,
        "shell",
        wordings=(
            f"How many lines does {file} have?",
            f"Count the lines of {file}.",
            f"What is the line count of {file}?",
            f"Tell me how many lines are in {file}.",
            f"How long is {file} in lines?",
        ),
        form="number",
        setup=setup,
        steps=[("I count the lines of the file.", f"wc -l < {file}")],
        expected=count,
    )


def count_bytes(rng: random.Random) -> Draft:
    folder = new_folder(rng)
    name, other = file_names(rng, 2)
    size = between(rng, 20, 999)
    sizes = {name: size, other: size + between(rng, 1, 99)}
    file = f"{folder}/{name}"
    return question(
        rng,
        "shell",
        wordings=(
            f"How many bytes does {file} have?",
            f"What is the size of {file} in bytes?",
            f"Count the bytes of {file}.",
            f"How big is {file} in bytes?",
        ),
        form="number",
        setup=write_zeros(folder, sizes),
        steps=[("I count the bytes of the file.", f"wc -c < {file}")],
        expected=size,
    )


def find_word(rng: random.Random) -> Draft:
    folder = new_folder(rng)
    word, *others = several(rng, WORDS, 9)
    names = file_names(rng, 4)
    lines = [[pick(rng, others), pick(rng, others)] for _ in names]
    hit = between(rng, 0, 3)
    lines[hit].insert(between(rng, 0, 2), word)
    return question(
        rng,
        "shell",
        wordings=(
            f"Which file in {folder} contains the word {word}?",
            f"Find the file in {folder} that contains the word {word}.",
            f"One file in {folder} has the word {word}. Which one?",
            f"In {folder}, which file mentions the word {word}?",
            f"Search {folder} for the word {word}. Which file has it?",
        ),
        form="path",
        setup=write(folder, dict(zip(names, lines, strict=True))),
        steps=[("I search the files for the word.", f"grep -l {word} {folder}/*")],
        expected=f"{folder}/{names[hit]}",
    )


def count_matches(rng: random.Random) -> Draft:
    folder = new_folder(rng)
    name, other = file_names(rng, 2)
    word, *others = several(rng, WORDS, 12)
    count = between(rng, 2, 15)
    hits = [f"{word} {pick(rng, others)}" for _ in range(count)]
    misses = [f"{pick(rng, others)} {pick(rng, others)}" for _ in range(between(rng, 2, 9))]
    lines = several(rng, hits + misses, len(hits + misses))
    file = f"{folder}/{name}"
    return question(
        rng,
        "shell",
        wordings=(
            f"How many lines of {file} contain the word {word}?",
            f"In {file}, how many lines have the word {word}?",
            f"Count the lines with the word {word} in {file}.",
            f"On how many lines of {file} does the word {word} appear?",
        ),
        form="number",
        setup=write(folder, {name: lines, other: hits + misses + hits}),
        steps=[("I count the lines with the word.", f"grep -c {word} {file}")],
        expected=count,
    )


def config_value(rng: random.Random) -> Draft:
    folder = new_folder(rng)
    [name] = file_names(rng, 1, "conf")
    keys = several(rng, KEYS, 5)
    values = [str(between(rng, 10, 9999)) if rng.random() < 0.5 else word for word in several(rng, WORDS, 5)]
    file, key = f"{folder}/{name}", keys[2]
    return question(
        rng,
        "shell",
        wordings=(
            f"What is the value of {key} in {file}?",
            f"Read the setting {key} from {file}.",
            f"In {file}, what is {key} set to?",
            f"Look up {key} in {file}.",
        ),
        form="value",
        setup=write(folder, {name: several(rng, [f"{k}={v}" for k, v in zip(keys, values, strict=True)], 5)}),
        steps=[("I read the value of the key.", f"grep ^{key}= {file} | cut -d= -f2")],
        expected=values[2],
    )


def second_word(rng: random.Random) -> Draft:
    folder = new_folder(rng)
    [name] = file_names(rng, 1)
    people = several(rng, NAMES, 6)
    things = several(rng, WORDS, 6)
    file, at = f"{folder}/{name}", between(rng, 0, 5)
    return question(
        rng,
        "shell",
        wordings=(
            f"Each line of {file} has a name and a word. Which word has {people[at]}?",
            f"In {file}, which word follows the name {people[at]}?",
            f"Which word stands next to {people[at]} in {file}?",
            f"Find the line of {people[at]} in {file}. What is its second word?",
        ),
        form="word",
        setup=write(folder, {name: [f"{person} {thing}" for person, thing in zip(people, things, strict=True)]}),
        steps=[("I take the second word of the line.", f"grep ^{people[at]} {file} | cut -d' ' -f2")],
        expected=things[at],
    )


def biggest_file(rng: random.Random) -> Draft:
    folder = new_folder(rng)
    names = file_names(rng, 5)
    sizes = several(rng, range(100, 999), 5)
    return question(
        rng,
        "shell",
        wordings=(
            f"Which file in {folder} is the biggest?",
            f"What is the largest file in {folder}?",
            f"Find the biggest file in {folder}.",
            f"In {folder}, which file takes the most bytes?",
        ),
        form="file name",
        setup=write_zeros(folder, dict(zip(names, sizes, strict=True))),
        steps=[("I list the files by size.", f"ls -S {folder} | head -n 1")],
        expected=names[sizes.index(max(sizes))],
    )


def newest_file(rng: random.Random) -> Draft:
    folder = new_folder(rng)
    names = file_names(rng, 5)
    days = several(rng, range(10, 29), 5)
    month = between(rng, 10, 12)
    setup = [f"touch -d 2023-{month}-{day} {name}" for name, day in zip(names, days, strict=True)]
    return question(
        rng,
        "shell",
        wordings=(
            f"Which file in {folder} is the newest?",
            f"What is the newest file in {folder}?",
            f"Find the file in {folder} that changed last.",
            f"In {folder}, which file has the latest date?",
        ),
        form="file name",
        setup="\n".join([write(folder, {}), *setup]),
        steps=[("I list the files by date.", f"ls -t {folder} | head -n 1")],
        expected=names[days.index(max(days))],
    )


def sum_column(rng: random.Random) -> Draft:
    folder = new_folder(rng)
    [name] = file_names(rng, 1)
    numbers = [between(rng, 1, 99) for _ in range(between(rng, 4, 9))]
    lines = [f"{word} {number}" for word, number in zip(several(rng, WORDS, len(numbers)), numbers, strict=True)]
    file = f"{folder}/{name}"
    return question(
        rng,
        "shell",
        wordings=(
            f"Each line of {file} is a word and a number. What is the sum of the numbers?",
            f"What is the sum of the second column of {file}?",
            f"Add up the numbers in the second column of {file}.",
            f"Sum the second column of {file}.",
        ),
        form="number",
        setup=write(folder, {name: lines}),
        steps=[("I add up the second column.", f"awk '{{s+=$2}} END {{print s}}' {file}")],
        expected=sum(numbers),
    )


def count_unique(rng: random.Random) -> Draft:
    folder = new_folder(rng)
    [name] = file_names(rng, 1)
    different = several(rng, WORDS, between(rng, 3, 18))
    lines = different + [pick(rng, different) for _ in range(between(rng, 3, 12))]
    file = f"{folder}/{name}"
    return question(
        rng,
        "shell",
        wordings=(
            f"How many different lines does {file} have?",
            f"Count the distinct lines of {file}.",
            f"How many unique lines are in {file}?",
            f"If repeated lines count once, how many lines are in {file}?",
        ),
        form="number",
        setup=write(folder, {name: several(rng, lines, len(lines))}),
        steps=[("I count the different lines.", f"sort -u {file} | wc -l")],
        expected=len(different),
    )


def nth_line(rng: random.Random) -> Draft:
    folder = new_folder(rng)
    [name] = file_names(rng, 1)
    words = several(rng, WORDS, 12)
    file, number = f"{folder}/{name}", between(rng, 2, 11)
    return question(
        rng,
        "shell",
        wordings=(
            f"What is line {number} of {file}?",
            f"Which word is on line {number} of {file}?",
            f"Show line {number} of {file}.",
            f"In {file}, what does line {number} say?",
        ),
        form="word",
        setup=write(folder, {name: words}),
        steps=[("I print the line by its number.", f"sed -n {number}p {file}")],
        expected=words[number - 1],
    )


def last_line(rng: random.Random) -> Draft:
    folder = new_folder(rng)
    [name] = file_names(rng, 1)
    words = several(rng, WORDS, between(rng, 4, 12))
    file = f"{folder}/{name}"
    return question(
        rng,
        "shell",
        wordings=(
            f"What is the last line of {file}?",
            f"Which word is on the last line of {file}?",
            f"How does {file} end? Give its last line.",
            f"In {file}, what does the final line say?",
        ),
        form="word",
        setup=write(folder, {name: words}),
        steps=[("I print the last line.", f"tail -n 1 {file}")],
        expected=words[-1],
    )


def file_mode(rng: random.Random) -> Draft:
    folder = new_folder(rng)
    names = file_names(rng, 3)
    modes = several(rng, MODES, 3)
    setup = [write(folder, dict.fromkeys(names, ()))]
    setup += [f"chmod {mode} {name}" for name, mode in zip(names, modes, strict=True)]
    file = f"{folder}/{names[0]}"
    return question(
        rng,
        "shell",
        wordings=(
            f"What is the mode of {file}?",
            f"Which permissions does {file} have?",
            f"Show the permissions of {file} as a number.",
            f"What are the octal permissions of {file}?",
        ),
        form="octal number",
        setup="\n".join(setup),
        steps=[("I print the mode of the file.", f"stat -c %a {file}")],
        expected=modes[0],
    )


def link_target(rng: random.Random) -> Draft:
    folder = new_folder(rng)
    link, *names = file_names(rng, 4)
    target = f"{folder}/{pick(rng, names)}"
    return question(
        rng,
        "shell",
        wordings=(
            f"Where does the link {folder}/{link} point?",
            f"What is the target of the link {folder}/{link}?",
            f"Which path does the symlink {folder}/{link} lead to?",
            f"Follow the symlink {folder}/{link}. What is its target?",
        ),
        form="path",
        setup=f"{write(folder, dict.fromkeys(names, ()))}\nln -s {target} {link}",
        steps=[("I read the target of the link.", f"readlink {folder}/{link}")],
        expected=target,
    )


def follow_note(rng: random.Random) -> Draft:
    folder = new_folder(rng)
    note, *names = file_names(rng, 4)
    numbers = several(rng, range(10, 999), 3)
    at = between(rng, 0, 2)
    files = {name: [str(number)] for name, number in zip(names, numbers, strict=True)}
    return question(
        rng,
        "shell",
        wordings=(
            f"{folder}/{note} names a file. Which number is in that file?",
            f"Read the path in {folder}/{note}, then read that file. Which number does it hold?",
            f"{folder}/{note} holds a path. Give the number in the file at that path.",
            f"Go to the file that {folder}/{note} names. What number is there?",
        ),
        form="number",
        setup=write(folder, {note: [f"{folder}/{names[at]}"], **files}),
        steps=[
            ("I read the note first.", f"cat {folder}/{note}"),
            ("I read the file it names.", f"cat {folder}/{names[at]}"),
        ],
        expected=numbers[at],
    )


# Chores


def make_folder(rng: random.Random) -> Draft:
    folder = new_folder(rng)
    new, old = several(rng, WORDS, 2)
    files: Files = {f"{old}/": (), **{name: word_lines(rng, 1) for name in file_names(rng, 2)}}
    path = f"{folder}/{new}"
    return chore(
        rng,
        "shell",
        wordings=(
            f"Create the folder {path}.",
            f"Make a new folder {path}.",
            f"I need a directory {path}. Create it.",
            f"Please add the directory {path}.",
            f"Make the directory {path}.",
        ),
        setup=write(folder, files),
        steps=[("I create the folder.", f"mkdir -p {path}")],
        judge=exactly(folder, {**files, f"{new}/": ()}),
    )


def write_file(rng: random.Random) -> Draft:
    folder = new_folder(rng)
    name, *others = file_names(rng, 3)
    [text] = word_lines(rng, 1)
    files = {other: word_lines(rng, 1) for other in others}
    file = f"{folder}/{name}"
    return chore(
        rng,
        "shell",
        wordings=(
            f'Write "{text}" into the new file {file}.',
            f'Create a file with the text "{text}" at {file}.',
            f'Save the words "{text}" in a new file {file}.',
            f'Put "{text}" into a new file called {file}.',
        ),
        setup=write(folder, files),
        steps=[("I write the text into the file.", f'echo "{text}" > {file}')],
        judge=exactly(folder, {**files, name: [text]}),
    )


def append_line(rng: random.Random) -> Draft:
    folder = new_folder(rng)
    name, other = file_names(rng, 2)
    [text] = word_lines(rng, 1)
    files = {name: word_lines(rng, between(rng, 2, 4)), other: word_lines(rng, 2)}
    file = f"{folder}/{name}"
    return chore(
        rng,
        "shell",
        wordings=(
            f'Append the line "{text}" to {file}.',
            f'Add "{text}" at the end of {file}.',
            f'Add the line "{text}" to the end of {file}.',
            f'Put "{text}" after the last line of {file}.',
        ),
        setup=write(folder, files),
        steps=[("I append the line to the file.", f'echo "{text}" >> {file}')],
        judge=exactly(folder, {**files, name: [*files[name], text]}),
    )


def rename_file(rng: random.Random) -> Draft:
    folder = new_folder(rng)
    old, new, *others = file_names(rng, 4)
    files = {name: word_lines(rng, 1) for name in (old, *others)}
    return chore(
        rng,
        "shell",
        wordings=(
            f"Rename {folder}/{old} to {folder}/{new}.",
            f"The file {folder}/{old} should be called {folder}/{new}.",
            f"Give {folder}/{old} the new name {folder}/{new}.",
            f"Change the name of {folder}/{old} to {folder}/{new}.",
        ),
        setup=write(folder, files),
        steps=[("I rename the file.", f"mv {folder}/{old} {folder}/{new}")],
        judge=exactly(folder, {new: files[old], **{name: files[name] for name in others}}),
    )


def copy_file(rng: random.Random) -> Draft:
    folder = new_folder(rng)
    old, new, *others = file_names(rng, 4)
    files = {name: word_lines(rng, 1) for name in (old, *others)}
    return chore(
        rng,
        "shell",
        wordings=(
            f"Copy {folder}/{old} to {folder}/{new}.",
            f"Make a copy of {folder}/{old} called {folder}/{new}.",
            f"Duplicate {folder}/{old} as {folder}/{new}.",
            f"I need a copy of {folder}/{old} at {folder}/{new}.",
        ),
        setup=write(folder, files),
        steps=[("I copy the file.", f"cp {folder}/{old} {folder}/{new}")],
        judge=exactly(folder, {**files, new: files[old]}),
    )


def move_file(rng: random.Random) -> Draft:
    folder = new_folder(rng)
    name, *others = file_names(rng, 3)
    target, spare = several(rng, WORDS, 2)
    rest: Files = {f"{target}/": (), f"{spare}/": (), **{other: word_lines(rng, 1) for other in others}}
    text = word_lines(rng, 1)
    return chore(
        rng,
        "shell",
        wordings=(
            f"Move {folder}/{name} into the folder {folder}/{target}.",
            f"Put the file {folder}/{name} into the directory {folder}/{target}.",
            f"The file {folder}/{name} belongs in {folder}/{target}. Move it there.",
            f"Please move {folder}/{name} to the directory {folder}/{target}.",
        ),
        setup=write(folder, {**rest, name: text}),
        steps=[("I move the file into the folder.", f"mv {folder}/{name} {folder}/{target}/")],
        judge=exactly(folder, {**rest, f"{target}/{name}": text}),
    )


def delete_extension(rng: random.Random) -> Draft:
    folder = new_folder(rng)
    gone, kept = several(rng, EXTENSIONS, 2)
    first, second, *others = several(rng, WORDS, 5)
    rest = {f"{name}.{kept}": word_lines(rng, 1) for name in others}
    files = {**rest, f"{first}.{gone}": word_lines(rng, 1), f"{second}.{gone}": word_lines(rng, 1)}
    return chore(
        rng,
        "shell",
        wordings=(
            f"Delete all .{gone} files in {folder}.",
            f"Remove every .{gone} file from {folder}.",
            f"Clean up {folder}: delete the .{gone} files and keep the rest.",
            f"The .{gone} files in {folder} are not needed. Delete them.",
        ),
        setup=write(folder, files),
        steps=[("I delete the files by extension.", f"rm {folder}/*.{gone}")],
        judge=exactly(folder, rest),
    )


def set_mode(rng: random.Random) -> Draft:
    folder = new_folder(rng)
    name, other = file_names(rng, 2)
    before, after = several(rng, MODES, 2)
    files = {name: word_lines(rng, 1), other: word_lines(rng, 1)}
    file = f"{folder}/{name}"
    return chore(
        rng,
        "shell",
        wordings=(
            f"Set the mode of {file} to {after}.",
            f"Change the permissions of {file} to {after}.",
            f"Give {file} the permissions {after}.",
            f"The file {file} should have mode {after}.",
        ),
        setup=f"{write(folder, files)}\nchmod {before} {name} {other}",
        steps=[("I set the mode of the file.", f"chmod {after} {file}")],
        judge=exactly(folder, files, modes={name: after, other: before}),
    )


def replace_word(rng: random.Random) -> Draft:
    folder = new_folder(rng)
    name, other = file_names(rng, 2)
    old, new, *rest = several(rng, WORDS, 6)
    before = several(rng, [f"{old} {rest[0]}", f"{rest[1]} {rest[2]}", f"{rest[3]} {old}"], 3)
    after = [line.replace(old, new) for line in before]
    file = f"{folder}/{name}"
    return chore(
        rng,
        "shell",
        wordings=(
            f"Replace {old} with {new} in {file}.",
            f"Change the word {old} to {new} everywhere in {file}.",
            f"In {file}, every {old} should become {new}.",
            f"Edit {file}: put {new} in place of {old}.",
        ),
        setup=write(folder, {name: before, other: before}),
        steps=[("I replace the word in the file.", f"sed -i s/{old}/{new}/g {file}")],
        judge=exactly(folder, {name: after, other: before}),
    )


def make_link(rng: random.Random) -> Draft:
    folder = new_folder(rng)
    target, other = file_names(rng, 2)
    link = pick(rng, WORDS)
    files = {target: word_lines(rng, 1), other: word_lines(rng, 2)}
    return chore(
        rng,
        "shell",
        wordings=(
            f"Make a symlink to {folder}/{target} at {folder}/{link}.",
            f"Link {folder}/{target} to the new name {folder}/{link}.",
            f"Create a symbolic link to {folder}/{target} called {folder}/{link}.",
            f"Point a new symlink at {folder}/{target} and name it {folder}/{link}.",
        ),
        setup=write(folder, files),
        steps=[("I make the link.", f"ln -s {folder}/{target} {folder}/{link}")],
        judge=exactly(folder, files, links={link: target}),
    )


def delete_match(rng: random.Random) -> Draft:
    folder = new_folder(rng)
    word, *others = several(rng, WORDS, 9)
    names = file_names(rng, 4)
    files = {name: [pick(rng, others), pick(rng, others)] for name in names}
    hit = pick(rng, names)
    rest = {name: lines for name, lines in files.items() if name != hit}
    return chore(
        rng,
        "shell",
        wordings=(
            f"One file in {folder} contains the word {word}. Delete that file.",
            f"Delete the file in {folder} that contains the word {word}.",
            f"Find the file with the word {word} in {folder} and remove it.",
            f"In {folder}, remove the file that mentions the word {word}.",
        ),
        setup=write(folder, {**files, hit: [*files[hit], word]}),
        steps=[
            ("I search the files for the word.", f"grep -l {word} {folder}/*"),
            ("I delete the file that was found.", f"rm {folder}/{hit}"),
        ],
        judge=exactly(folder, rest),
    )


def save_count(rng: random.Random) -> Draft:
    folder = new_folder(rng)
    name, result, other = file_names(rng, 3)
    files = {name: several(rng, WORDS, between(rng, 3, 20)), other: several(rng, WORDS, between(rng, 3, 20))}
    source, target = f"{folder}/{name}", f"{folder}/{result}"
    return chore(
        rng,
        "shell",
        wordings=(
            f"Count the lines of {source} and write the number into {target}.",
            f"Write the number of lines of {source} into the new file {target}.",
            f"How many lines does {source} have? Save the number in {target}.",
            f"Store the line count of {source} in {target}.",
        ),
        setup=write(folder, files),
        steps=[
            ("I count the lines of the file.", f"wc -l < {source}"),
            ("I write the number into the file.", f"echo {len(files[name])} > {target}"),
        ],
        judge=exactly(folder, {**files, result: [str(len(files[name]))]}),
    )


SHELL_FAMILIES = tuple(
    Family(name=make.__name__, kind="shell", make=make)
    for make in (
        count_files,
        count_lines,
        count_bytes,
        find_word,
        count_matches,
        config_value,
        second_word,
        biggest_file,
        newest_file,
        sum_column,
        count_unique,
        nth_line,
        last_line,
        file_mode,
        link_target,
        follow_note,
        make_folder,
        write_file,
        append_line,
        rename_file,
        copy_file,
        move_file,
        delete_extension,
        set_mode,
        replace_word,
        make_link,
        delete_match,
        save_count,
    )
)
