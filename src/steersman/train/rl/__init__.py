"""Reinforcement learning: PPO, RLOO and GRPO around one loop."""
