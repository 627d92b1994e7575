# Methods of events other than epoll: they are level-triggered.
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::Memstat;

# Answers of a server: each process is there, fresh. No client waits for the timeout.
sub answers_of {
    my ($t, $count) = @_;
    my @wrong;
    for (1 .. 10) {
        my $reply = $t->fresh;
        my %found = map { $_->{pid} => $_ } @{ $reply->{processes} };
        push @wrong, map { "$_ is not there" } grep { !$found{$_} } $t->children;
        push @wrong, map { "$_->{kind} $_->{pid} $_->{state}: @{ $_->{notes} }" }
            grep { !$_->{breakdown} || $_->{state} ne 'active' || @{ $_->{notes} } } values %found;
    }
    is_deeply \@wrong, [], "all of $count workers and the master answer, ten times";
    return;
}

# Some rounds of that, with reloads.
sub rounds {
    my ($t, $count) = @_;
    for my $round (1 .. 3) {
        answers_of($t, $count);
        $t->reload;
        $t->wait_for('the old workers are gone', sub { children($t->master) == $count });
    }
    answers_of($t, $count);
    return;
}

run_tests();

__DATA__

=== TEST 1: a level-triggered method
--- main_config
load_module $TEST_NGINX_BUILT_ngx_level_test_module;
worker_processes 3;
events { use level_test; worker_connections 256; }
--- config
location /memstat { memstat; }
--- perl
rounds($t, 3);

=== TEST 2: poll
--- with
--with-poll_module
--- main_config
worker_processes 3;
events { use poll; worker_connections 256; }
--- config
location /memstat { memstat; }
--- perl
rounds($t, 3);

=== TEST 3: select
--- with
--with-select_module
--- main_config
worker_processes 3;
events { use select; worker_connections 256; }
--- config
location /memstat { memstat; }
--- perl
rounds($t, 3);

=== TEST 4: a level-triggered method, and processes that share a waker
--- main_config
load_module $TEST_NGINX_BUILT_ngx_level_test_module;
worker_processes 40;
events { use level_test; worker_connections 64; }
--- config
location /memstat { memstat; }
--- perl
answers_of($t, 40);

=== TEST 5: poll, and processes that share a waker
--- with
--with-poll_module
--- main_config
worker_processes 40;
events { use poll; worker_connections 64; }
--- config
location /memstat { memstat; }
--- perl
answers_of($t, 40);

=== TEST 6: select, and processes that share a waker
--- with
--with-select_module
--- main_config
worker_processes 40;
events { use select; worker_connections 64; }
--- config
location /memstat { memstat; }
--- perl
answers_of($t, 40);
