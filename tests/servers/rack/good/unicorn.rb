# unicorn -c unicorn.rb, stopped with QUIT (TERM is its quick stop, which drops requests)

worker_processes 1

# Load the application in unicorn's own first process: code that does not load ends unicorn. Without this, unicorn
# respawns the worker that cannot load it, for ever.
preload_app true
