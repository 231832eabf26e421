"""`python -m agentlm_sdk` is `agentlm-sdk`."""

from agentlm_sdk.cli import main

main()
