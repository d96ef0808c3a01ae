"""Multi-task reinforcement learning on Meta-World: environments, soft actor-critic, imitation."""
