"""Double DQN, with the parts of Rainbow that need no distribution."""

from sb3_ext.double_dqn.double_dqn import DoubleDQN
from sb3_ext.double_dqn.policies import CnnPolicy, MlpPolicy, MultiInputPolicy

__all__ = ["CnnPolicy", "DoubleDQN", "MlpPolicy", "MultiInputPolicy"]
