from utils.environment import require_supported_python

require_supported_python()  # before the other modules, which an old Python cannot import
