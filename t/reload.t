# Reloads: generations, workers that exit late, locations that are added and removed.
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::Memstat;

sub generations {
    my ($reply) = @_;
    my %seen = map { $_->{generation} => 1 } process_with($reply, kind => 'worker');
    return sort keys %seen;
}

# Returns everything in a process that a module could leave behind without any request.
sub traces {
    my ($pid) = @_;
    my $eventfds = grep { /eventfd/ } open_files($pid);
    my @shared = map { "$_->{size}" } grep { $_->{rights} =~ /s$/ } maps($pid);
    my $smaps = read_file("/proc/$pid/smaps");
    my ($code) = $smaps =~ m{ r-xp [^\n]*/nginx\n(.*?)^VmFlags}ms;
    my ($copied) = $code =~ /^Anonymous:\s+(\d+) kB/m;
    return { eventfds => $eventfds, shared => [ sort @shared ], patched => $copied };
}

run_tests();

__DATA__

=== TEST 1: a reload counts a generation
--- main_config
worker_processes 2;
--- config
location /memstat { memstat; }
--- perl
is_deeply [ generations($t->memstat) ], [1], 'the first';
for my $expected (2 .. 5) {
    my @before = $t->workers;
    $t->reload->old_gone;
    my $reply = $t->fresh;
    is_deeply [ generations($reply) ], [$expected], "generation $expected";
    my @workers = active_workers($reply);
    is_deeply [ sort { $a <=> $b } map { $_->{pid} } @workers ], [ children($t->master) ], 'new workers';
    is_deeply [ sort map { $_->{id} } @workers ], [ 0, 1 ], 'their numbers';
    my ($master) = process_with($reply, kind => 'master');
    is $master->{pid}, $t->master, 'and is the same';
}

=== TEST 2: an old worker that still has a request is shutting down
--- main_config
worker_processes 1;
--- config
location /memstat { memstat; }
location /slow { proxy_pass http://127.0.0.1:$TEST_NGINX_PORT_1; }
--- perl
my $upstream = silent_server($t->port(1));
my ($old) = $t->workers;
my ($clients, $held) = held($t, $upstream, '/slow');
$t->reload;
my ($new) = $t->workers;
isnt $new, $old, 'a new worker';

my $reply = $t->fresh;
my $process = process_of($reply, $old);
is $process->{state}, 'shutting_down', 'the old one shuts down';
is $process->{generation}, 1, 'it is of the generation before';
is $process->{kind}, 'worker', 'a worker';
ok $process->{breakdown}, 'with figures';
my %status = proc_status($old);
is $process->{system}{virtual}, $status{VmSize}, 'its own';
cmp_ok $process->{age_ms}, '<=', $reply->{elapsed_us} / 1000 + 1, 'taken for this answer';
$process = process_of($reply, $new);
is $process->{state}, 'active', 'the new one is active';
is $process->{generation}, 2, 'and of the next generation';

$t->reload;
$reply = $t->fresh;
is_deeply [ generations($reply) ], [ 1, 3 ], 'the generation between is gone';
is process_of($reply, $old)->{state}, 'shutting_down', 'the oldest still shuts down';
like $t->get('/memstat?format=text')->{body}, qr/\b$old\b.*\bshutting/, 'so does the text say';

$held->[0]->close;
is $clients->[0]->receive->{status}, 502, 'the slow request ends';
$t->old_gone;
$reply = $t->fresh;
is_deeply [ map { $_->{pid} } process_with($reply, kind => 'worker') ], [ $t->workers ],
    'and is not in the answer any more';

=== TEST 3: an old worker that is stopped
--- config
location /memstat { memstat; memstat_timeout 200ms; }
location /slow { proxy_pass http://127.0.0.1:$TEST_NGINX_PORT_1; }
--- perl
my $upstream = silent_server($t->port(1));
my ($old) = $t->workers;
my ($clients, $held) = held($t, $upstream, '/slow');
$t->reload;
$t->fresh;
$t->signal(STOP => $old);
my $process = process_of($t->fresh, $old);
is $process->{state}, 'unresponsive', 'it does not answer';
is $process->{generation}, 1, 'its generation is known';
$t->signal(CONT => $old);
$t->wait_for('it answers', sub { process_of($t->memstat, $old)->{state} eq 'shutting_down' });
pass 'it shuts down again';
$held->[0]->close;
$clients->[0]->receive;

=== TEST 4: a request that waits while its worker is asked to shut down
--- main_config
worker_processes 2;
--- config
location /memstat { memstat; }
location /status { stub_status; }
--- perl
my ($stopped, $other) = $t->workers;
$t->fresh;
$t->signal(STOP => $stopped);
my $client = $t->expire->connect->send(GET => '/memstat');
$t->wait_for('the request waits for it', sub { $t->status->{writing} == 1 });
$t->signal('HUP');
$t->wait_for('the other worker shuts down', sub { $t->error_log =~ /$other#\d+: gracefully/ });
$t->signal(CONT => $stopped);
my $answer = $client->receive;
is $answer->{status}, 200, 'the request is answered';
my $reply = $t->decode($answer->{body});
is $reply->{answered_by}{pid}, $other, 'by the worker that goes';
$t->old_gone;
# A worker that was just forked is in the answer before it can answer itself.
$t->wait_for('two new workers', sub { active_workers($t->fresh) == 2 });

=== TEST 5: a request that waits for a master that is asked to reload, and for a worker
--- main_config
worker_processes 2;
--- config
location /memstat { memstat; }
location /status { stub_status; }
--- perl
my ($stopped, $other) = $t->workers;
$t->fresh;
$t->signal(STOP => $_) for $stopped, $t->master;
my $client = $t->expire->connect->send(GET => '/memstat');
$t->wait_for('the request waits for both', sub { $t->status->{writing} == 1 });
$t->signal('HUP')->signal(CONT => $t->master);
$t->wait_for('the other worker shuts down', sub { $t->error_log =~ /$other#\d+: gracefully/ });
$t->signal(CONT => $stopped);
my $reply = $t->decode($client->receive->{body});
is $reply->{answered_by}{pid}, $other, 'it is answered';
is process_of($reply, $t->master)->{state}, 'active', 'with the master';

=== TEST 6: more workers, fewer workers
--- main_config
worker_processes 2;
--- config
location /memstat { memstat; }
--- perl
for my $workers (5, 1, 30, 3) {
    $t->reload(main_config => "worker_processes $workers;")->old_gone;
    # A worker that was just forked is in the answer before it can answer itself.
    my ($reply, @workers);
    $t->wait_for('all answer for themselves', sub {
        $reply   = $t->fresh;
        @workers = active_workers($reply);
        @workers == $workers && !grep { !defined $_->{id} } @workers;
    });
    is_deeply [ sort { $a <=> $b } map { $_->{pid} } @workers ], [ children($t->master) ], "$workers workers";
    is_deeply [ sort { $a <=> $b } map { $_->{id} } @workers ], [ 0 .. $workers - 1 ], 'their numbers';
    is scalar @{ $reply->{processes} }, $workers + 1, 'nobody else';
}

=== TEST 7: the size of the zone changes
--- main_config
worker_processes 2;
--- http_config
memstat_zone size=1m;
--- config
location /memstat { memstat; }
location /slow { proxy_pass http://127.0.0.1:$TEST_NGINX_PORT_1; }
--- perl
my $upstream = silent_server($t->port(1));
my ($kept) = map { $_->{answered_by}{pid} } $t->memstat;
my ($clients, $held) = held($t, $upstream, '/slow');
for my $size (qw(2m 1m 4m)) {
    $t->reload(http_config => "memstat_zone size=$size;");
    my $reply = $t->fresh;
    is scalar(active_workers($reply)), 2, "$size: new workers";
    my @old = grep { $_->{state} ne 'active' } @{ $reply->{processes} };
    cmp_ok scalar @old, '<=', 2, "$size: the old one is there at most once"
        or diag join ' ', map { "$_->{pid}:$_->{state}" } @old;
}
$held->[0]->close;
$clients->[0]->receive;

=== TEST 8: the location is removed and added again
--- main_config
worker_processes 2;
--- config
location /memstat { memstat; }
--- perl
my $with = $t->{sections}{config};
for (1 .. 2) {
    $t->reload(config => 'location /memstat { return 204; }')->old_gone;
    is $t->get('/memstat')->{status}, 204, 'without';
    $t->reload(config => $with)->old_gone;
    my $reply = $t->fresh;
    is scalar(active_workers($reply)), 2, 'with';
}

=== TEST 9: the location is added while an old worker without it still runs
--- config
location /memstat { return 204; }
location /slow { proxy_pass http://127.0.0.1:$TEST_NGINX_PORT_1; }
--- perl
my $upstream = silent_server($t->port(1));
my ($old) = $t->workers;
my ($clients, $held) = held($t, $upstream, '/slow');
$t->reload(config => 'location /memstat { memstat; }');
my $reply = $t->memstat;
my $process = process_of($reply, $old);
is $process->{state}, 'shutting_down', 'it is known to shut down';
my %status = proc_status($old);
near $process->{system}{resident}, $status{VmRSS}, 0.02 * $status{VmRSS}, 'with what the kernel says';
is process_of($reply, ($t->workers)[0])->{state}, 'active', 'the new one is active';
$held->[0]->close;
$clients->[0]->receive;

=== TEST 10: without a location the module does nothing
--- main_config
worker_processes 2;
--- http_config
memstat_hooks on;
memstat_timeout 1s;
memstat_zone size=1m;
--- config
location / { return 204; }
--- perl
my $plain = Test::Memstat::Server->new(
    main_config => 'worker_processes 2;', config => 'location / { return 204; }', module => 0)->start;
is $plain->get('/')->{status}, 204, 'plain nginx serves';
is $t->get('/')->{status}, 204, 'with the module too';
for my $who (qw(master worker)) {
    my ($with, $without) = map { traces($who eq 'master' ? $_->master : ($_->workers)[0]) } $t, $plain;
    is_deeply $with, $without, "$who: no eventfd, no zone, no patch";
}
$plain->stop;

# The same reading shows a difference when there is a location.
$t->reload(config => 'location /memstat { memstat; }');
my ($with) = map { traces($_) } $t->workers;
isnt $with->{eventfds}, 0, 'a location brings eventfds';
isnt scalar @{ $with->{shared} }, 0, 'and a zone';

=== TEST 11: a removed location leaves nothing in the next workers
--- main_config
worker_processes 2;
--- config
location /memstat { memstat; }
--- perl
$t->memstat;
$t->reload(config => 'location / { return 204; }')->old_gone;
my ($worker) = $t->workers;
# The counters of zones, which the slab hook mapped, stay.
my $shared = grep { $_->{size} >= 1 << 20 && $_->{rights} =~ /s$/ } maps($worker);
is $shared, 0, 'no zone';

=== TEST 12: nothing accumulates over reloads
--- main_config
worker_processes 2;
--- config
location /memstat { memstat; }
--- perl
my $count = sub {
    $t->reload->old_gone;
    $t->fresh;
    my ($worker) = $t->workers;
    my ($files) = scalar(my @files = open_files($t->master));
    my ($maps) = scalar(my @maps = maps($t->master));
    my ($worker_files) = scalar(my @worker_files = open_files($worker));
    return "descriptors $files $worker_files";
};
my $first = $count->();
my $last;
$last = $count->() for 1 .. 8;
is $last, $first, 'descriptors';
my ($master) = process_with($t->fresh, kind => 'master');
my %status = proc_status($t->master);
$count->() for 1 .. 5;
my %later = proc_status($t->master);
near $later{VmSize}, $status{VmSize}, 1048576, 'the master does not grow';

=== TEST 13: the module is unloaded and loaded again by reloads
--- main_config
worker_processes 2;
--- config
location /memstat { memstat; }
--- perl
my $with = $t->{sections}{config};
for (1 .. 3) {
    $t->reload(module => 0, config => 'location /memstat { return 204; }')->old_gone;
    is $t->get('/memstat')->{status}, 204, 'unloaded';
    $t->reload(module => 1, config => $with)->old_gone;
    is scalar(active_workers($t->fresh)), 2, 'loaded';
}

=== TEST 14: a reload that fails changes nothing
--- config
location /memstat { memstat; }
--- error_log
unknown directive "nonsense"
--- perl
my ($worker) = $t->workers;
$t->fresh;
$t->write_conf(http_config => 'nonsense;');
$t->signal('HUP');
$t->wait_for('the reload fails', sub { $t->error_log =~ /nonsense/ });
my $reply = $t->fresh;
is process_of($reply, $worker)->{state}, 'active', 'the worker goes on';
is process_of($reply, $worker)->{generation}, 1, 'the generation is the same';
$t->reload(http_config => '');
is process_of($t->fresh, ($t->workers)[0])->{state}, 'active', 'the next reload is fine';
