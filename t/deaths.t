# Workers that are killed at any moment: replies stay valid, without the killed workers and with their
# successors. TEST_NGINX_COUNT: the number of killed workers (60).
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::Memstat;

sub deaths { return $ENV{TEST_NGINX_COUNT} // 60 }

# Starts a process that does something repeatedly until it is stopped.
sub meanwhile {
    my ($do) = @_;
    my $pid = fork // die "cannot fork: $!\n";
    return $pid if $pid;
    $SIG{TERM} = sub { POSIX::_exit(0) };
    while (1) {
        # Connections to a killed worker are reset.
        eval { $do->() };
    }
}

run_tests();

__DATA__

=== TEST 1: killed under load, while all processes publish
--- main_config
worker_processes 3;
--- http_config
limit_req_zone $remote_addr zone=limited:1m rate=100000r/s;
--- config
location /memstat { memstat; }
location /limited { limit_req zone=limited burst=1000 nodelay; return 204; }
--- perl
my @load = map { meanwhile(sub { $t->get('/limited') }) } 1 .. 2;
push @load, meanwhile(sub { $t->get('/memstat') });
# An answer that waits for a dead worker would not come before its client's timeout, which fails the test.
my ($answers, @wrong) = (0);
my $count = deaths();
for my $round (1 .. $count) {
    my @workers = $t->workers;
    my $victim = $workers[ rand @workers ];
    # After a random number of other requests: at any moment of the snapshots.
    for (1 .. rand 20) { eval { $t->get('/limited') } }
    kill $_, $victim for (qw(KILL SEGV ABRT))[ $round % 3 ];
    # Some answers while the worker dies, and one when its successor runs.
    for (1 .. 2) {
        my $reply = eval { $t->memstat } or do {
            push @wrong, $@ unless $@ =~ /connection was closed|cannot (?:read|connect)|not an HTTP/;
            next;
        };
        $answers++;
    }
    $t->wait_for('the successor', sub { my @now = $t->workers; @now == 3 && !grep { $_ == $victim } @now });
    my $reply = eval { $t->fresh } // next;
    push @wrong, "$victim is in the answer after its death"
        if grep { $_->{pid} == $victim } @{ $reply->{processes} };
}
kill TERM => @load;
waitpid $_, 0 for @load;
is join("\n", @wrong), '', 'nothing wrong in any answer';
cmp_ok $answers, '>', $count, "$answers answers meanwhile";
my $reply = $t->wait_for('all three are known', sub {
    my $reply = $t->fresh;
    my @known = grep { $_->{breakdown} } active_workers($reply);
    return @known == 3 && $reply;
});
is_deeply [ sort { $a <=> $b } map { $_->{pid} } process_with($reply, kind => 'worker') ], [ $t->workers ],
    'the workers of the end';
is $t->get('/limited')->{status}, 204, 'no zone is locked';
--- error_log
worker process \d+ exited on signal (?:6|9|11)
