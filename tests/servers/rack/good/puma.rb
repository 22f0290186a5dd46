# puma -C puma.rb

# Take the inherited socket and nothing else; without this, puma closes it and listens elsewhere.
bind_to_activated_sockets "only"

# Read a request by the thread that answers it. With its queue, puma 5.6 drops connections that it accepted and had
# not read yet when the stop signal comes.
queue_requests false

environment "production"
threads 4, 4
