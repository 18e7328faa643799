"""Text environments, registered with Gymnasium on import: `gymnasium.make("envs:Countdown-v0")`.

Knows neither torch nor ray: any Gymnasium program can evaluate any callable here.
"""

from gymnasium.envs.registration import register

register(id="Countdown-v0", entry_point="envs.countdown:CountdownEnv")
register(id="CountdownTool-v0", entry_point="envs.countdown_tool:CountdownToolEnv")
register(id="GuessNumber-v0", entry_point="envs.guess_number:GuessNumberEnv")
register(id="Multiplication-v0", entry_point="envs.multiplication:MultiplicationEnv")
register(id="GSM8K-v0", entry_point="envs.math_word:GSM8KEnv")
register(id="MATH-v0", entry_point="envs.math_word:MATHEnv")
register(id="Dataset-v0", entry_point="envs.dataset:DatasetEnv")
register(id="ReasoningGym-v0", entry_point="envs.reasoning_gym:ReasoningGymEnv")
register(id="Mixture-v0", entry_point="envs.mixture:MixtureEnv")
