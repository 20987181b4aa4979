"""Make a model that is smaller, or knows its work better: prune, distill, fine-tune.

What leaves this room is a Hugging Face folder, or an adapter for one, with a ledger of what each step cost.
"""
