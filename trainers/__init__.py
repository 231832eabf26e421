"""From journals to a tuned model: curate, mix, render, audit, pack, train. Importing it loads no torch."""
