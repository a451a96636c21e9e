"""An OpenAI-compatible LLM simulator for PromptQ's demo, tests and benchmarks: ``python -m simulator --help``.

It answers with the shapes of the OpenAI API, deterministically, and fails on demand: `simulator.behaviour` lists the
model names that provoke each failure, `simulator.app` the routes. It imports no other package of this repository.
"""
