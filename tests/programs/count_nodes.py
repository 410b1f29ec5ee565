"""How many living nodes a Ray cluster has: `python tests/programs/count_nodes.py ADDRESS`."""

import sys

import ray

ray.init(sys.argv[1], logging_level="CRITICAL", log_to_driver=False)
print("nodes:", sum(node["Alive"] for node in ray.nodes()), flush=True)
