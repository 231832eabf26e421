"""A bot that answers questions about a Linux machine: any langchain-core chat model, a hardened Docker sandbox, one task.

python examples/shell_bot.py                               # a scripted model, so that it runs without a server
python examples/shell_bot.py http://127.0.0.1:8000/v1      # any OpenAI-compatible server, e.g. `agentlm-sdk serve MODEL_DIR`
"""

import sys

from langchain_core.language_models import BaseChatModel

from agentlm_sdk import Agent, DockerShell, ScriptedChat
from agentlm_sdk.display import trajectory_text

SCRIPT = [
    "Think: I count the entries of /etc that end in .conf.\nAct: bash\n```bash\nls -d /etc/*.conf | wc -l\n```",
    "Think: The output is the answer.\nAct: answer(as many as the output says)",
]


def chat_model(url: str | None) -> BaseChatModel:
    """The model to talk to."""
    if url is None:
        return ScriptedChat(replies=SCRIPT)
    from langchain_openai import ChatOpenAI

    return ChatOpenAI(base_url=url, api_key="none", temperature=0)


def main(url: str | None = None) -> None:
    agent = Agent(chat_model(url), DockerShell())
    print(trajectory_text(agent.run_sync("How many files in /etc end in .conf?")))


if __name__ == "__main__":
    main(*sys.argv[1:])
