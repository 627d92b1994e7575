# Processes that do not answer, and clients that do not wait.
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::Memstat;

use Time::HiRes qw(sleep time);

run_tests();

__DATA__

=== TEST 1: a stopped worker is reported with its last figures, and is fresh once it goes on
--- main_config
worker_processes 3;
--- config
location /memstat { memstat; memstat_timeout 300ms; }
--- perl
my ($stopped, @others) = $t->workers;
my $last = process_of($t->fresh, $stopped);
my $seen = time;
$t->signal(STOP => $stopped);
sleep 0.1;

my $asked = time;
my $reply = $t->memstat;
my $took = time - $asked;
my $first = process_of($reply, $stopped);
is $first->{state}, 'unresponsive', 'state';
cmp_ok $took, '>=', 0.29, 'the answer waits as long as it should';
cmp_ok $took, '<', 1.5, 'and no longer';
is_deeply $first->{$_}, $last->{$_}, "$_ as before"
    for qw(kind id generation system breakdown allocator text stacks hooks self);
near $first->{age_ms}, (time - $seen) * 1000, 100, 'the age of these figures';
is process_of($reply, $_)->{state}, 'active', "worker $_ is active" for @others;
cmp_ok process_of($reply, $_)->{age_ms}, '<', 1000, "worker $_ is fresh" for @others;

my $second = process_of($t->fresh, $stopped);
is $second->{state}, 'unresponsive', 'still';
near $second->{age_ms}, (time - $seen) * 1000, 100, 'its age grows';
is_deeply $second->{system}, $last->{system}, 'its figures do not';

$t->signal(CONT => $stopped);
my $again = $t->wait_for('the worker answers again', 5, sub {
    my $process = process_of($t->memstat, $stopped);
    return $process->{state} eq 'active' ? $process : undef;
});
cmp_ok $again->{age_ms}, '<', 300, 'it is fresh';
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
sleep 0.1;
my $text = $t->get('/memstat?format=text')->{body};
like $text, qr/^.*\b$stopped\b.*\bunresponsive\b/m, 'unresponsive';

=== TEST 3: the shortest and the default timeout
--- main_config
worker_processes 2;
--- config
location /memstat { memstat; }
location /short { memstat; memstat_timeout 10ms; }
--- perl
my ($stopped) = $t->workers;
$t->fresh;
$t->signal(STOP => $stopped);
sleep 0.1;
my $asked = time;
is process_of($t->memstat, $stopped)->{state}, 'unresponsive', 'the default';
my $took = time - $asked;
cmp_ok $took, '>=', 0.19, 'waits 200 ms';
cmp_ok $took, '<', 1.2, 'and no longer';
$asked = time;
is process_of($t->memstat('/short'), $stopped)->{state}, 'unresponsive', '10 ms';
cmp_ok time - $asked, '<', 0.19, 'are less';

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
location /memstat { memstat; memstat_timeout 2s; }
--- error_log
worker process \d+ exited on signal 9
--- perl
my ($killed, $other) = $t->workers;
my $before = process_of($t->fresh, $killed);
$t->signal(KILL => $killed);
my ($successor) = $t->wait_for('the successor', 5, sub {
    my @workers = $t->workers;
    my ($new) = grep { $_ != $killed && $_ != $other } @workers;
    return @workers == 2 ? $new : undef;
});
my $asked = time;
my $reply = $t->fresh;
cmp_ok time - $asked, '<', 1.5, 'nobody waits for the dead';
my @workers = process_with($reply, kind => 'worker');
is_deeply [ sort { $a <=> $b } map { $_->{pid} } @workers ],
    [ sort { $a <=> $b } $other, $successor ], 'the dead one is gone, its successor is there';
my $after = process_of($reply, $successor);
is $after->{state}, 'active', 'the successor answers';
is $after->{id}, $before->{id}, 'with the number of the dead one';
is $after->{generation}, $before->{generation}, 'and its generation';
cmp_ok $after->{uptime_s}, '<=', 2, 'but its own start';
my %status = proc_status($successor);
is $after->{system}{virtual}, $status{VmSize}, 'and its own figures';

=== TEST 6: a worker killed while a request waits for it
--- main_config
worker_processes 2;
--- config
location /memstat { memstat; memstat_timeout 500ms; }
--- error_log
worker process \d+ exited on signal 9
--- perl
my ($killed, $other) = $t->workers;
$t->fresh;
$t->signal(STOP => $killed);
sleep 0.1;
my $client = $t->connect->send(GET => '/memstat');
sleep 0.1;
$t->signal(KILL => $killed);
my $reply = $t->decode($client->receive->{body});
is process_of($reply, $other)->{state}, 'active', 'the answer comes';
ok !(grep { $_->{pid} == $killed && $_->{state} eq 'active' } @{ $reply->{processes} }),
    'the dead one is not active';
$t->wait_for('the successor', 5, sub { $t->workers == 2 });
is scalar(process_with($t->fresh, kind => 'worker', state => 'active')), 2, 'two again';

=== TEST 7: a client that goes away frees its request at once
--- main_config
worker_processes 2;
--- config
location /memstat { memstat; memstat_timeout 60s; }
location /status { stub_status; }
--- perl
my ($stopped) = $t->workers;
$t->fresh;
$t->signal(STOP => $stopped);
sleep 0.1;
my $active = sub { return ($t->get('/status')->{body} =~ /Active connections: (\d+)/)[0] };
my $before = $active->();
my @clients = map { $t->connect->send(GET => '/memstat') } 1 .. 5;
$t->wait_for('the requests are there', 5, sub { $active->() == $before + 5 });
is $t->access_log =~ /GET \/memstat\S* \S+ 499/, '', 'they wait';
$_->close for @clients;
$t->wait_for('the requests are gone', 5, sub { $active->() == $before });
my $aborted = () = $t->access_log =~ m{GET /memstat \S+ 499}g;
is $aborted, 5, 'each is logged as closed by the client';
$t->signal(CONT => $stopped);
is process_of($t->fresh, $stopped)->{state}, 'active', 'all goes on';

=== TEST 8: a client that goes away with others still waiting
--- main_config
worker_processes 2;
--- config
location /memstat { memstat; memstat_timeout 800ms; }
--- perl
my ($stopped) = $t->workers;
$t->fresh;
$t->signal(STOP => $stopped);
sleep 0.1;
my @clients = map { $t->connect->send(GET => '/memstat') } 1 .. 6;
sleep 0.1;
$clients[$_]->close for 0, 2, 5;
for my $client (@clients[ 1, 3, 4 ]) {
    my $answer = $client->receive;
    is $answer->{status}, 200, 'one that stays is answered';
    is process_of($t->decode($answer->{body}), $stopped)->{state}, 'unresponsive', 'as it should';
}

=== TEST 9: all waiting clients are answered as soon as the worker is
--- main_config
worker_processes 2;
--- config
location /memstat { memstat; memstat_timeout 15s; }
--- perl
my ($stopped) = $t->workers;
$t->fresh;
$t->signal(STOP => $stopped);
sleep 0.1;
my @clients = map { $t->connect->send(GET => '/memstat') } 1 .. 20;
sleep 0.2;
my $asked = time;
$t->signal(CONT => $stopped);
for my $client (@clients) {
    my $process = process_of($t->decode($client->receive->{body}), $stopped);
    is $process->{state}, 'active', 'active';
}
cmp_ok time - $asked, '<', 5, 'long before the timeout';

=== TEST 10: hammering
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
        my @active = map { $_->{pid} } process_with($reply, kind => 'worker', state => 'active');
        $wrong++ if "@workers" ne join ' ', sort { $a <=> $b } @active;
    }
}
is $wrong, 0, 'each of 200 answers has both workers';
$_->close for @clients;
$t->wait_for('no request is left', 5,
    sub { $t->get('/status')->{body} =~ /Active connections: 1 / });
is $t->error_log =~ tr/\n// < 500, 1, 'the log does not grow';

=== TEST 11: what is to be refreshed is, right after an answer
--- main_config
worker_processes 3;
--- config
location /memstat { memstat; memstat_timeout 60s; }
--- perl
# A process that kept its young snapshot would hold the answer up for longer than a client waits.
for (1 .. 5) {
    $t->fresh;
    for my $what (qw(heap zones)) {
        my $reply = $t->memstat("/memstat?refresh=$what");
        is scalar(process_with($reply, kind => 'worker', state => 'active')), 3, "$what: all answer";
    }
}

=== TEST 12: clients that go away while an answer of many processes is on its way
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
    Time::HiRes::sleep($i / 2000);
    $client->close;
}
my $active = sub { return ($t->get('/status')->{body} =~ /Active connections: (\d+)/)[0] };
$t->wait_for('the requests are gone', 5, sub { $active->() == 1 });
for my $format (@formats) {
    my $answer = $t->get("/memstat?format=$format");
    is $answer->{status}, 200, "$format is answered";
}
my @answered = sort { $a <=> $b } map { $_->{pid} } process_with($t->fresh, kind => 'worker', state => 'active');
is_deeply \@answered, \@workers, 'all workers are as they were';
