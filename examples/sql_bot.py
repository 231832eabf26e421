"""A bot over a SQLite database of its own, with a judge: the verdict is in the trajectory. Needs neither Docker nor a server.

python examples/sql_bot.py
"""

import asyncio

from agentlm_sdk import Agent, ScriptedChat, SqliteDatabase, Task, Trajectory
from agentlm_sdk.display import trajectory_text
from agentlm_sdk.tasks import AnswerJudge, SqliteEnvironment

TASK = Task(
    id="example/oldest",
    family="oldest",
    split="train",
    instruction="Table crew(name, age). Who is the oldest? Answer with the name only.",
    environment=SqliteEnvironment(script="CREATE TABLE crew (name, age); INSERT INTO crew VALUES ('ada', 61), ('lin', 34);"),
    judge=AnswerJudge(expected=["ada"]),
)
SCRIPT = [
    "Think: I sort by age.\nAct: sql\n```sql\nSELECT name FROM crew ORDER BY age DESC LIMIT 1\n```",
    "Think: The output is the answer.\nAct: answer(ada)",
]


async def main() -> Trajectory:
    trajectory = await Agent(ScriptedChat(replies=SCRIPT), SqliteDatabase()).run(TASK)
    print(trajectory_text(trajectory))
    return trajectory


if __name__ == "__main__":
    asyncio.run(main())
