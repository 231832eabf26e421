"""SQL families of the starter suite: questions about a small table or two, and chores that change rows. For SQLite."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from agentlm_sdk.suites import NAMES, WORDS, Draft, Family, between, chore, pick, question, several, words
from agentlm_sdk.tasks import QueryJudge

PEOPLE = words("staff members players guests workers drivers friends writers visitors students nurses singers agents fans")
THINGS = words("books plants boats tools toys lamps shoes games cups bikes cars flowers songs paintings boxes")
PERSON_KEYS, THING_KEYS = ("name", "person", "nick", "login"), ("title", "label", "item", "code")
PERSON_GROUPS, THING_GROUPS = (
    ("city", "team", "club", "school", "boss"),
    ("shelf", "shop", "room", "owner", "kind", "brand"),
)
PERSON_NUMBERS, THING_NUMBERS = (
    ("age", "score", "points", "pay", "rank"),
    ("price", "weight", "stock", "size", "cost", "length"),
)

Row = tuple[str, str, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A table of a text key, a text group that several rows share, and a number; no two rows share key or number."""

    name: str
    key: str
    group: str
    number: str
    rows: list[Row]
    groups: list[str]
    """The values of the group column, from the rarest to the most common, without ties."""

    def script(self, rows: Sequence[Row] | None = None) -> str:
        """The set-up, with other rows where they are given."""
        return create(self.name, f"{self.key} TEXT, {self.group} TEXT, {self.number} INTEGER", self.rows if rows is None else rows)

    def says(self, *sentences: str) -> tuple[str, ...]:
        """The sentences, each after the line that shows the columns."""
        return tuple(f"Table {self.name}({self.key}, {self.group}, {self.number}). {sentence}" for sentence in sentences)

    def holds(self, rows: Sequence[Row]) -> QueryJudge:
        """Passes when these are the rows of the whole table."""
        query = f"SELECT {self.key}, {self.group}, {self.number} FROM {self.name}"
        return QueryJudge(query=query, rows=[list(row) for row in rows])


def create(name: str, columns: str, rows: Sequence[Sequence[str | int]]) -> str:
    values = ", ".join(f"({', '.join(literal(cell) for cell in row)})" for row in rows)
    return f"CREATE TABLE {name} ({columns});\nINSERT INTO {name} VALUES {values};"


def literal(cell: str | int) -> str:
    return f"'{cell}'" if isinstance(cell, str) else str(cell)


def new_table(rng: random.Random) -> Table:
    """Four groups of 2 to 12 rows in random order."""
    people = rng.random() < 0.5
    sizes = sorted(several(rng, range(2, 13), 4))
    groups = several(rng, WORDS, 4)
    of_row = [group for group, size in zip(groups, sizes, strict=True) for _ in range(size)]
    keys = several(rng, NAMES if people else [word for word in WORDS if word not in groups], len(of_row))
    numbers = several(rng, range(10, 100), len(of_row))
    rows = list(zip(keys, of_row, numbers, strict=True))
    return Table(
        name=pick(rng, PEOPLE if people else THINGS),
        key=pick(rng, PERSON_KEYS if people else THING_KEYS),
        group=pick(rng, PERSON_GROUPS if people else THING_GROUPS),
        number=pick(rng, PERSON_NUMBERS if people else THING_NUMBERS),
        rows=several(rng, rows, len(rows)),
        groups=groups,
    )


# Questions


def count_rows(rng: random.Random) -> Draft:
    t = new_table(rng)
    value = pick(rng, t.groups)
    return question(
        rng,
        "sqlite",
        wordings=t.says(
            f"How many rows have {t.group} '{value}'?",
            f"Count the rows where {t.group} is '{value}'.",
            f"What is the number of rows with {t.group} '{value}'?",
            f"How many {t.name} have the {t.group} '{value}'?",
        ),
        form="number",
        setup=t.script(),
        steps=[("I count the rows of the group.", f"SELECT COUNT(*) FROM {t.name} WHERE {t.group} = '{value}'")],
        expected=sum(group == value for _, group, _ in t.rows),
    )


def count_above(rng: random.Random) -> Draft:
    t = new_table(rng)
    limit = between(rng, 20, 80)
    return question(
        rng,
        "sqlite",
        wordings=t.says(
            f"How many rows have {t.number} above {limit}?",
            f"Count the rows where {t.number} is more than {limit}.",
            f"What is the number of rows with {t.number} over {limit}?",
            f"How many {t.name} have a {t.number} greater than {limit}?",
        ),
        form="number",
        setup=t.script(),
        steps=[("I count the rows above the limit.", f"SELECT COUNT(*) FROM {t.name} WHERE {t.number} > {limit}")],
        expected=sum(number > limit for _, _, number in t.rows),
    )


def sum_rows(rng: random.Random) -> Draft:
    t = new_table(rng)
    value = pick(rng, t.groups)
    return question(
        rng,
        "sqlite",
        wordings=t.says(
            f"What is the sum of {t.number} where {t.group} is '{value}'?",
            f"Add up {t.number} of the rows with {t.group} '{value}'.",
            f"What is the total {t.number} for {t.group} '{value}'?",
            f"Sum the {t.number} of all {t.name} with {t.group} '{value}'.",
        ),
        form="number",
        setup=t.script(),
        steps=[("I sum the column for the group.", f"SELECT SUM({t.number}) FROM {t.name} WHERE {t.group} = '{value}'")],
        expected=sum(number for _, group, number in t.rows if group == value),
    )


def average_rows(rng: random.Random) -> Draft:
    t = new_table(rng)
    value = t.groups[0]
    numbers = [number for _, group, number in t.rows if group == value]
    lift = -sum(numbers) % len(numbers)
    # What the first row of the group gets on top, to make the average a whole number.
    at = next(place for place, row in enumerate(t.rows) if row[1] == value)
    rows = [(key, group, number + lift * (place == at)) for place, (key, group, number) in enumerate(t.rows)]
    return question(
        rng,
        "sqlite",
        wordings=t.says(
            f"What is the average {t.number} where {t.group} is '{value}'?",
            f"Compute the mean {t.number} of the rows with {t.group} '{value}'.",
            f"What is the mean of {t.number} for {t.group} '{value}'?",
            f"On average, what {t.number} do rows with {t.group} '{value}' have?",
        ),
        form="number",
        setup=t.script(rows),
        steps=[("I average the column for the group.", f"SELECT AVG({t.number}) FROM {t.name} WHERE {t.group} = '{value}'")],
        expected=(sum(numbers) + lift) // len(numbers),
    )


def highest_row(rng: random.Random) -> Draft:
    t = new_table(rng)
    return question(
        rng,
        "sqlite",
        wordings=t.says(
            f"Which {t.key} has the highest {t.number}?",
            f"Find the {t.key} with the largest {t.number}.",
            f"Whose {t.number} is the highest? Give the {t.key}.",
            f"What is the {t.key} of the row with the maximum {t.number}?",
        ),
        form=t.key,
        setup=t.script(),
        steps=[("I sort from the highest down.", f"SELECT {t.key} FROM {t.name} ORDER BY {t.number} DESC LIMIT 1")],
        expected=max(t.rows, key=lambda row: row[2])[0],
    )


def lowest_row(rng: random.Random) -> Draft:
    t = new_table(rng)
    return question(
        rng,
        "sqlite",
        wordings=t.says(
            f"Which {t.key} has the lowest {t.number}?",
            f"Find the {t.key} with the smallest {t.number}.",
            f"Whose {t.number} is the lowest? Give the {t.key}.",
            f"What is the {t.key} of the row with the minimum {t.number}?",
        ),
        form=t.key,
        setup=t.script(),
        steps=[("I sort from the lowest up.", f"SELECT {t.key} FROM {t.name} ORDER BY {t.number} LIMIT 1")],
        expected=min(t.rows, key=lambda row: row[2])[0],
    )


def look_up(rng: random.Random) -> Draft:
    t = new_table(rng)
    key, group, number = pick(rng, t.rows)
    answers: dict[str, str | int] = {t.group: group, t.number: number}
    column = pick(rng, list(answers))
    return question(
        rng,
        "sqlite",
        wordings=t.says(
            f"What is the {column} of '{key}'?",
            f"Which {column} does '{key}' have?",
            f"Look up the {column} of '{key}'.",
            f"Find the row with {t.key} '{key}'. What is its {column}?",
        ),
        form=column,
        setup=t.script(),
        steps=[("I look up the value.", f"SELECT {column} FROM {t.name} WHERE {t.key} = '{key}'")],
        expected=answers[column],
    )


def count_distinct(rng: random.Random) -> Draft:
    t = new_table(rng)
    groups = several(rng, WORDS, between(rng, 2, 12))
    rows = [
        (key, groups[place] if place < len(groups) else pick(rng, groups), number) for place, (key, _, number) in enumerate(t.rows)
    ]
    return question(
        rng,
        "sqlite",
        wordings=t.says(
            f"How many different values does {t.group} have?",
            f"Count the distinct values of {t.group}.",
            f"If repeats count once, how many values of {t.group} are there?",
            f"What is the number of unique {t.group} values?",
        ),
        form="number",
        setup=t.script(several(rng, rows, len(rows))),
        steps=[("I count the different values.", f"SELECT COUNT(DISTINCT {t.group}) FROM {t.name}")],
        expected=len({group for _, group, _ in rows}),
    )


def biggest_group(rng: random.Random) -> Draft:
    t = new_table(rng)
    return question(
        rng,
        "sqlite",
        wordings=t.says(
            f"Which {t.group} has the most rows?",
            f"What is the most common {t.group}?",
            f"Find the {t.group} that appears most often.",
            f"One {t.group} has more rows than any other. Which one?",
        ),
        form=t.group,
        setup=t.script(),
        steps=[
            (
                "I count the rows of each group.",
                f"SELECT {t.group} FROM {t.name} GROUP BY {t.group} ORDER BY COUNT(*) DESC LIMIT 1",
            )
        ],
        expected=t.groups[-1],
    )


def join_tables(rng: random.Random) -> Draft:
    t = new_table(rng)
    colors = several(rng, [word for word in WORDS if word not in t.groups], len(t.groups))
    other = pick(rng, ("places", "details", "notes", "marks", "signs"))
    column = pick(rng, ("color", "symbol", "motto", "guide", "emblem"))
    key, group, _ = pick(rng, t.rows)
    pairs = several(rng, list(zip(t.groups, colors, strict=True)), len(colors))
    tables = f"Tables {t.name}({t.key}, {t.group}) and {other}({t.group}, {column})."
    return question(
        rng,
        "sqlite",
        wordings=(
            f"{tables} Which {column} belongs to the {t.group} of '{key}'?",
            f"{tables} Join them: what {column} does '{key}' have?",
            f"{tables} What is the {column} of the {t.group} of '{key}'?",
            f"{tables} Find the {column} for '{key}' through {t.group}.",
        ),
        form=column,
        setup="\n".join(
            (
                create(t.name, f"{t.key} TEXT, {t.group} TEXT", [row[:2] for row in t.rows]),
                create(other, f"{t.group} TEXT, {column} TEXT", pairs),
            )
        ),
        steps=[
            (
                "I join the tables on the shared column.",
                f"SELECT {column} FROM {t.name} JOIN {other} USING ({t.group}) WHERE {t.key} = '{key}'",
            )
        ],
        expected=colors[t.groups.index(group)],
    )


# Chores


def insert_row(rng: random.Random) -> Draft:
    t = new_table(rng)
    new, *rows = t.rows
    values = f"('{new[0]}', '{new[1]}', {new[2]})"
    return chore(
        rng,
        "sqlite",
        wordings=t.says(
            f"Insert the row {values}.",
            f"Add a row with the values {values}.",
            f"A new row is missing: {values}. Add it.",
            f"Put {values} into the table.",
        ),
        setup=t.script(rows),
        steps=[("I insert the row.", f"INSERT INTO {t.name} VALUES {values}")],
        judge=t.holds(t.rows),
    )


def set_number(rng: random.Random) -> Draft:
    t = new_table(rng)
    at, value = between(rng, 0, len(t.rows) - 1), between(rng, 100, 999)
    key, group, _ = t.rows[at]
    return chore(
        rng,
        "sqlite",
        wordings=t.says(
            f"Set {t.number} to {value} where {t.key} is '{key}'.",
            f"Change the {t.number} to {value} for '{key}'.",
            f"The {t.number} should be {value} for '{key}'. Update it.",
            f"Update the row: {t.number} becomes {value} for {t.key} '{key}'.",
        ),
        setup=t.script(),
        steps=[("I update the row.", f"UPDATE {t.name} SET {t.number} = {value} WHERE {t.key} = '{key}'")],
        judge=t.holds([*t.rows[:at], (key, group, value), *t.rows[at + 1 :]]),
    )


def raise_number(rng: random.Random) -> Draft:
    t = new_table(rng)
    value, more = pick(rng, t.groups), between(rng, 2, 50)
    return chore(
        rng,
        "sqlite",
        wordings=t.says(
            f"Raise {t.number} by {more} where {t.group} is '{value}'.",
            f"Add {more} to {t.number} for the {t.group} '{value}'.",
            f"Increase {t.number} by {more} in all rows with {t.group} '{value}'.",
            f"Every {t.number} should grow by {more} for {t.group} '{value}'.",
        ),
        setup=t.script(),
        steps=[
            (
                "I raise the number for the group.",
                f"UPDATE {t.name} SET {t.number} = {t.number} + {more} WHERE {t.group} = '{value}'",
            )
        ],
        judge=t.holds([(key, group, number + more * (group == value)) for key, group, number in t.rows]),
    )


def move_group(rng: random.Random) -> Draft:
    t = new_table(rng)
    old, new = several(rng, t.groups, 2)
    return chore(
        rng,
        "sqlite",
        wordings=t.says(
            f"Change {t.group} from '{old}' to '{new}'.",
            f"Every {t.group} '{old}' should become '{new}'.",
            f"Replace the {t.group} '{old}' with '{new}' in all rows.",
            f"The {t.group} '{old}' is now called '{new}'. Update the rows.",
        ),
        setup=t.script(),
        steps=[("I update the group.", f"UPDATE {t.name} SET {t.group} = '{new}' WHERE {t.group} = '{old}'")],
        judge=t.holds([(key, new if group == old else group, number) for key, group, number in t.rows]),
    )


def delete_rows(rng: random.Random) -> Draft:
    t = new_table(rng)
    value = pick(rng, t.groups)
    return chore(
        rng,
        "sqlite",
        wordings=t.says(
            f"Delete the rows where {t.group} is '{value}'.",
            f"Remove all rows with {t.group} '{value}'.",
            f"Rows with {t.group} '{value}' are not needed. Delete them.",
            f"Delete all {t.name} with the {t.group} '{value}'.",
        ),
        setup=t.script(),
        steps=[("I delete the rows of the group.", f"DELETE FROM {t.name} WHERE {t.group} = '{value}'")],
        judge=t.holds([row for row in t.rows if row[1] != value]),
    )


def delete_lowest(rng: random.Random) -> Draft:
    t = new_table(rng)
    lowest = min(t.rows, key=lambda row: row[2])
    return chore(
        rng,
        "sqlite",
        wordings=t.says(
            f"Delete the row with the lowest {t.number}.",
            f"Find the row with the smallest {t.number} and delete it.",
            f"Remove the row whose {t.number} is the minimum.",
            f"One row has the lowest {t.number}. Remove that row.",
        ),
        setup=t.script(),
        steps=[
            ("I sort from the lowest up.", f"SELECT {t.key} FROM {t.name} ORDER BY {t.number} LIMIT 1"),
            ("I delete the row that was found.", f"DELETE FROM {t.name} WHERE {t.key} = '{lowest[0]}'"),
        ],
        judge=t.holds([row for row in t.rows if row is not lowest]),
    )


SQL_FAMILIES = tuple(
    Family(name=make.__name__, kind="sqlite", make=make)
    for make in (
        count_rows,
        count_above,
        sum_rows,
        average_rows,
        highest_row,
        lowest_row,
        look_up,
        count_distinct,
        biggest_group,
        join_tables,
        insert_row,
        set_number,
        raise_number,
        move_group,
        delete_rows,
        delete_lowest,
    )
)
