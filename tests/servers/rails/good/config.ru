# A Rack application that boots as a Rails one does: config.ru loads config/environment.rb, which loads all the code.
require_relative "config/environment"

run Shop
