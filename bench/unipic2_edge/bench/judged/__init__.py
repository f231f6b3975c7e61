"""Quality of real models: GenEval's protocol for generation, a judge behind a chat server for editing."""
