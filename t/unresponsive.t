# Processes that do not answer, and clients that go away.
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::Memstat;

run_tests();

__DATA__

=== TEST 1: a stopped worker is reported with its last figures, and is fresh once it goes on
--- main_config
worker_processes 3;
--- config
location /memstat { memstat; memstat_timeout 300ms; }
location /longer { memstat; }
--- perl
my ($stopped, @others) = $t->workers;
my $begun = milliseconds();
my $last = process_of($t->fresh, $stopped);
$t->signal(STOP => $stopped);

$t->expire;
my $asked  = milliseconds();
my $longer = $t->connect->send(GET => '/longer');
my $reply  = $t->memstat;
my $waited = milliseconds() - $asked;
my $first = process_of($reply, $stopped);
is $first->{state}, 'unresponsive', 'state';
cmp_ok $reply->{elapsed_us}, '>=', 290_000, 'the answer waits as long as it should';
ok !$longer->has_begun, 'and no longer: one with a longer timeout still waits';
is_deeply $first->{$_}, $last->{$_}, "$_ as before"
    for qw(kind id generation system breakdown allocator text stacks hooks self);
# The figures were taken after the test began to request them, and both answers have waited since then.
cmp_ok $first->{age_ms}, '>=', $last->{age_ms} + 290, 'the age of these figures';
cmp_ok $first->{age_ms}, '<=', milliseconds() - $begun + 1, 'and no more than that';
is process_of($reply, $_)->{state}, 'active', "worker $_ is active" for @others;
cmp_ok process_of($reply, $_)->{age_ms}, '<=', $waited + 1, "worker $_ is fresh: asked by one of the two requests" for @others;

my $second = process_of($t->fresh, $stopped);
is $second->{state}, 'unresponsive', 'still';
cmp_ok $second->{age_ms}, '>=', $first->{age_ms} + 290, 'its age grows';
cmp_ok $second->{age_ms}, '<=', milliseconds() - $begun + 1, 'as it should';
is_deeply $second->{system}, $last->{system}, 'its figures do not';

my $goes_on = milliseconds();
$t->signal(CONT => $stopped);
my $again = $t->wait_for('the worker answers again', sub {
    my $process = process_of($t->memstat, $stopped);
    return $process->{state} eq 'active' ? $process : undef;
});
cmp_ok $again->{age_ms}, '<=', milliseconds() - $goes_on + 1, 'its figures are from after it went on';
is process_of($t->decode($longer->receive->{body}), $stopped)->{state}, 'active', 'as for the one that waited';
my %status = proc_status($stopped);
is $again->{system}{virtual}, $status{VmSize}, 'with figures of now';

=== TEST 2: the text names it
--- main_config
worker_processes 2;
--- config
location /memstat { memstat; memstat_timeout 100ms; }
--- perl
my ($stopped) = $t->workers;
$t->fresh;
$t->signal(STOP => $stopped);
my $text = $t->expire->get('/memstat?format=text')->{body};
like $text, qr/^.*\b$stopped\b.*\bunresponsive\b/m, 'unresponsive';

=== TEST 3: the shortest and the default timeout
--- timeout: default
--- main_config
worker_processes 2;
--- config
location /memstat { memstat; }
location /short { memstat; memstat_timeout 10ms; }
location /longer { memstat; memstat_timeout 10m; }
--- perl
my ($stopped) = $t->workers;
$t->fresh;
$t->signal(STOP => $stopped);
my $longer = $t->expire->connect->send(GET => '/longer');
my $reply = $t->memstat;
is process_of($reply, $stopped)->{state}, 'unresponsive', 'the default';
cmp_ok $reply->{elapsed_us}, '>=', 190_000, 'waits 200 ms';
ok !$longer->has_begun, 'and no longer: one with a longer timeout still waits';
# A busy machine may delay some answers, but not all.
$t->wait_for('an answer that waits for less', sub {
    my $reply = $t->memstat('/short');
    is process_of($reply, $stopped)->{state}, 'unresponsive', '10 ms';
    return $reply->{elapsed_us} < 190_000;
});

=== TEST 4: a worker that never answered
--- main_config
worker_processes 2;
--- config
location /memstat { memstat; memstat_timeout 100ms; }
--- perl
my ($stopped, $other) = $t->workers;
$t->signal(STOP => $stopped);
my $reply = $t->fresh;
my $process = process_of($reply, $stopped);
is $process->{state}, 'unresponsive', 'state';
is $process->{kind}, 'worker', 'kind';
my %status = proc_status($stopped);
if ($process->{breakdown}) {
    pass 'it published a snapshot when it started';
}
else {
    is $process->{system}{resident}, $status{VmRSS}, 'what the kernel says is there all the same';
    isnt "@{ $process->{notes} }", '', 'and a note';
}
is process_of($reply, $other)->{state}, 'active', 'the other worker';

=== TEST 5: a killed worker makes room for its successor
--- main_config
worker_processes 2;
--- config
location /memstat { memstat; }
--- error_log
worker process \d+ exited on signal 9
--- perl
my ($killed, $other) = $t->workers;
my $before = process_of($t->fresh, $killed);
$t->signal(KILL => $killed);
my $successor = $t->successor_of($killed, $other);
# No answer waits for the killed worker: memstat_timeout is longer than a client waits.
my $reply = $t->fresh;
is_deeply pids(process_with($reply, kind => 'worker')), [ sort { $a <=> $b } $other, $successor ],
    'the dead one is gone, its successor is there';
my $after = process_of($reply, $successor);
is $after->{state}, 'active', 'the successor answers';
is $after->{id}, $before->{id}, 'with the number of the dead one';
is $after->{generation}, $before->{generation}, 'and its generation';
cmp_ok $after->{uptime_s}, '<=', uptime($successor), 'but its own start';
my %status = proc_status($successor);
is $after->{system}{virtual}, $status{VmSize}, 'and its own figures';

=== TEST 6: a worker killed while a request waits for it
--- main_config
worker_processes 2;
--- config
location /memstat { memstat; }
location /status { stub_status; }
--- error_log
worker process \d+ exited on signal 9
--- perl
my ($killed, $other) = $t->workers;
$t->fresh;
$t->signal(STOP => $killed);
my $client = $t->expire->connect->send(GET => '/memstat');
$t->wait_for('the request waits', sub { $t->status->{writing} == 1 });
$t->signal(KILL => $killed);
my $reply = $t->decode($client->receive->{body});
is process_of($reply, $other)->{state}, 'active', 'the answer comes';
is scalar(process_with($reply, pid => $killed, state => 'active')), 0, 'the dead one is not active';
$t->wait_for('the successor', sub { $t->workers == 2 });
is scalar(active_workers($t->fresh)), 2, 'two again';

=== TEST 7: a client that goes away frees its request at once
--- main_config
worker_processes 2;
--- config
location /memstat { memstat; }
location /status { stub_status; }
--- perl
my ($stopped) = $t->workers;
$t->fresh;
$t->signal(STOP => $stopped)->expire;
my @clients = map { $t->connect->send(GET => '/memstat') } 1 .. 5;
$t->wait_for('the requests wait', sub { $t->status->{writing} == 5 });
is $t->access_log =~ /GET \/memstat\S* \S+ 499/, '', 'nobody is gone';
$_->close for @clients;
$t->wait_for('the requests are gone', sub { !$t->status->{active} });
my $aborted = () = $t->access_log =~ m{GET /memstat \S+ 499}g;
is $aborted, 5, 'each is logged as closed by the client';
$t->signal(CONT => $stopped);
is process_of($t->fresh, $stopped)->{state}, 'active', 'all goes on';

=== TEST 8: a client that goes away with others still waiting
--- main_config
worker_processes 2;
--- config
location /memstat { memstat; memstat_timeout 800ms; }
location /longer { memstat; }
--- perl
my ($stopped) = $t->workers;
$t->fresh;
$t->signal(STOP => $stopped)->expire;
my @clients = map { $t->connect->send(GET => $_) } map { ('/longer', '/memstat') } 1 .. 3;
$clients[$_]->close for 0, 2, 4;
for my $client (@clients[ 1, 3, 5 ]) {
    my $answer = $client->receive;
    is $answer->{status}, 200, 'one that stays is answered';
    is process_of($t->decode($answer->{body}), $stopped)->{state}, 'unresponsive', 'as it should';
}

=== TEST 9: all waiting clients are answered as soon as the worker is
--- main_config
worker_processes 2;
--- config
location /memstat { memstat; }
location /status { stub_status; }
--- perl
my ($stopped) = $t->workers;
$t->fresh;
$t->signal(STOP => $stopped)->expire;
my @clients = map { $t->connect->send(GET => '/memstat') } 1 .. 26;
$t->wait_for('the requests wait', sub { $t->status->{writing} == 26 });
$_->close for @clients[ 0, 2, 12, 13, 24, 25 ];
delete @clients[ 0, 2, 12, 13, 24, 25 ];
@clients = grep { $_ } @clients;
$t->wait_for('some are gone', sub { $t->status->{writing} == 20 });
$t->signal(CONT => $stopped);
for my $client (@clients) {
    my $process = process_of($t->decode($client->receive->{body}), $stopped);
    is $process->{state}, 'active', 'active';
}

=== TEST 10: many requests at once
--- main_config
worker_processes 2;
--- config
location /memstat { memstat; }
location /status { stub_status; }
--- perl
my @workers = sort { $a <=> $b } $t->workers;
my @clients = map { $t->connect } 1 .. 10;
my $wrong = 0;
for (1 .. 20) {
    $_->send(GET => '/memstat') for @clients;
    for my $client (@clients) {
        my $reply = $t->decode($client->receive->{body});
        my @active = map { $_->{pid} } active_workers($reply);
        $wrong++ if "@workers" ne join ' ', sort { $a <=> $b } @active;
    }
}
is $wrong, 0, 'each of 200 answers has both workers';
$_->close for @clients;
$t->wait_for('no request is left', sub { !$t->status->{active} });
is $t->error_log =~ tr/\n// < 500, 1, 'the log does not grow';

=== TEST 11: refresh= takes effect right after an answer
--- main_config
worker_processes 3;
--- config
location /memstat { memstat; }
--- perl
# If a process reused its young snapshot, the answer would take longer than a client waits.
for (1 .. 5) {
    $t->fresh;
    for my $what (qw(heap zones)) {
        my $reply = $t->memstat("/memstat?refresh=$what");
        is scalar(active_workers($reply)), 3, "$what: all answer";
    }
}

=== TEST 12: clients that go away while an answer of many processes is being made
--- main_config
worker_processes 20;
--- config
location /memstat { memstat; }
location /status { stub_status; }
--- perl
my @workers = sort { $a <=> $b } $t->workers;
$t->fresh;
my @formats = qw(json html text prometheus);
for my $i (1 .. 80) {
    my $client = $t->connect->send(GET => "/memstat?format=$formats[ $i % @formats ]");
    # Each goes away after another number of other answers.
    $t->status for 1 .. $i % 10;
    $client->close;
}
$t->wait_for('the requests are gone', sub { !$t->status->{active} });
for my $format (@formats) {
    my $answer = $t->get("/memstat?format=$format");
    is $answer->{status}, 200, "$format is answered";
}
my @answered = sort { $a <=> $b } map { $_->{pid} } active_workers($t->fresh);
is_deeply \@answered, \@workers, 'all workers are as they were';
