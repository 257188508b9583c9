"""Files of models: written completely, by a class that they name, and loaded with arguments that hold."""
