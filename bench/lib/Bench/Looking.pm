# Measures how long an answer of /memstat takes, and how long it occupies event loops.
package Bench::Looking;

use strict;
use warnings;

use Exporter 'import';
use JSON::PP;
use POSIX ();
use Time::HiRes qw(sleep time);

use Bench qw(quick);
use Bench::Preload;
use Test::Memstat::Proc qw(maps read_file);
use Test::Memstat::Server;

our @EXPORT_OK = qw(ask ask_often connections look look_aside on_processor percentile reply server $PAUSE $REQUESTS);

# The number of requests; and the pause in seconds after which every process takes a new snapshot.
our $REQUESTS = quick(200, 20);
our $PAUSE = 0.06;

my $turns = Bench::Preload->new(turns => 8);

# Returns the longest turn of any event loop since the last call, in microseconds.
sub longest_turn { return unpack('Q', $turns->take) / 1000 }

# Starts a server with Lua, a few zones, and a number of workers. More sections are added to its own; env
# replaces the library that measures turns.
sub server {
    my ($workers, %more) = @_;
    return Test::Memstat::Server->new(
        log_level   => 'warn',
        env         => $turns->env,
        %more,
        main_config => ($more{main_config} // '') . "\nworker_processes $workers;\n"
            . "events { worker_connections 1024; }\n",
        http_config => <<'END' . ($more{http_config} // ''),
limit_req_zone $binary_remote_addr zone=limited:1m rate=1000000r/s;
lua_shared_dict small 4m;
keepalive_requests 100000000;
keepalive_timeout 1h;
access_log off;
END
        config => <<'END' . ($more{config} // ''),
location /memstat { memstat; memstat_timeout 5s; }
location /return { return 200 "$pid"; }
location /lua { content_by_lua_block { ngx.print(ngx.worker.pid()) } }
location /busy {
    content_by_lua_block {
        local clock = os.clock
        local till = clock() + 0.0003
        while clock() < till do end
        ngx.print("ok")
    }
}
END
    )->start;
}

# --- requests ---

sub ask {
    my ($client, $path) = @_;
    $client->send(GET => $path);
    return answer($client, $path);
}

sub answer {
    my ($client, $path) = @_;
    my $answer = $client->receive;
    die "$path: status $answer->{status}\n$answer->{body}" if $answer->{status} !~ /^2/;
    return $answer->{body};
}

# Sends a number of requests, without waiting for each answer before the next request.
sub ask_often {
    my ($client, $path, $count) = @_;
    while ($count > 0) {
        my $some = $count < 100 ? $count : 100;
        $client->send(GET => $path) for 1 .. $some;
        answer($client, $path) for 1 .. $some;
        $count -= $some;
    }
    return;
}

# Returns a connection to each worker, by the worker's pid.
sub connections {
    my ($t) = @_;
    my %to;
    my $workers = $t->workers;
    for (1 .. 200 * $workers) {
        my $client = $t->connect;
        $to{ ask($client, '/return') } //= $client;
        last if keys %to == $workers;
    }
    die "only " . keys(%to) . " of $workers workers answer\n" if keys %to < $workers;
    return \%to;
}

# Returns the decoded answer, with new snapshots.
sub reply {
    my ($t, $query) = @_;
    sleep $PAUSE;
    return JSON::PP->new->utf8->decode(ask($t->connect, '/memstat' . ($query // '')));
}

# --- measuring ---

# Returns the value that this share of all values does not exceed.
sub percentile {
    my ($part, @values) = @_;
    my @sorted = sort { $a <=> $b } @values;
    my $place = POSIX::ceil($part * @sorted) - 1;
    return $sorted[ $place < 0 ? 0 : $place ];
}

# Returns the CPU time of a process, in microseconds.
sub on_processor {
    my ($pid) = @_;
    my ($nanoseconds) = split ' ', read_file("/proc/$pid/schedstat") // die "worker $pid is gone\n";
    return $nanoseconds / 1000;
}

sub max { return (sort { $b <=> $a } @_)[0] }

# Requests a path several times, with a pause. Returns two lists in microseconds: the time of each answer,
# and the longest turn of any event loop meanwhile.
sub requests {
    my ($clients, $path, $count, $each) = @_;
    my (@took, @turns);
    for my $i (1 .. $count) {
        sleep $PAUSE;
        my $client = $clients->[ $i % @$clients ];
        longest_turn();
        my $begun = time;
        my $body = ask($client, $path);
        push @took, (time - $begun) * 1e6;
        # The last turn ends when its loop waits again.
        sleep 0.002;
        push @turns, longest_turn();
        $each->($body) if $each;
    }
    return (\@took, \@turns);
}

# Puts a server under load. Returns the pid of wrk; the load ends with it.
sub load {
    my ($t) = @_;
    my $pid = fork // die "cannot fork: $!\n";
    if (!$pid) {
        open STDOUT, '>', '/dev/null';
        { exec 'wrk', '-t1', '-c32', '-d600s', $t->base . '/return' }
        POSIX::_exit(127);
    }
    sleep 0.5;
    return $pid;
}

# Measures answers of a server, and stops it. How: path (the part after /memstat), load (1: under load),
# requests (their number, $REQUESTS by default), idle (0: do not measure turns without answers). Returns
# lists in microseconds, with one value per request: took (the answer), turns (the longest turn of a loop),
# idle (the same without answers), cpu (a worker's CPU time, the mean of all), and snapshot and slice (the
# reply's figures of the process with the largest). Also returns mappings (the number of one worker's) and
# size (of the last reply, in bytes).
sub look {
    my ($t, %how) = @_;
    my $to = connections($t);
    my @pids = sort keys %$to;
    my @clients = map { $to->{$_} } @pids;
    $#clients = 7 if @clients > 8;
    my $count = $how{requests} // $REQUESTS;
    my $wrk = $how{load} ? load($t) : undef;
    my %seen = (snapshot => [], slice => [], idle => []);
    my $json = JSON::PP->new->utf8;
    my $on = sub { my $sum = 0; $sum += on_processor($_) for @pids; return $sum / @pids };
    my $before;
    my $each = sub {
        my $now = $on->();
        $seen{size} = length $_[0];
        push @{ $seen{cpu} }, $now - $before if defined $before;
        $before = $now;
        return if $_[0] !~ /^\{/;
        my @own = map { $_->{self} // () } @{ $json->decode($_[0])->{processes} };
        push @{ $seen{snapshot} }, max(map { $_->{snapshot_us} } @own);
        push @{ $seen{slice} }, max(map { $_->{longest_slice_us} } @own);
    };
    ask($clients[0], '/memstat');
    (undef, $seen{idle}) = requests(\@clients, '/return', $count) if $how{idle} // 1;
    @seen{qw(took turns)} = requests(\@clients, '/memstat' . ($how{path} // ''), $count, $each);
    $seen{mappings} = () = maps($pids[0]);
    if ($wrk) {
        kill TERM => $wrk;
        waitpid $wrk, 0;
    }
    my @wrong = $t->stop;
    print STDERR "  $_\n" for @wrong;
    return \%seen;
}

# Like look, but without answers: every worker is busy for 0.3 ms in a number of turns instead. Measures
# only turns.
sub look_aside {
    my ($t, $often) = @_;
    my @clients = values %{ connections($t) };
    my @turns;
    for (1 .. $REQUESTS) {
        sleep $PAUSE;
        longest_turn();
        for (1 .. $often) {
            $_->send(GET => '/busy') for @clients;
            answer($_, '/busy') for @clients;
        }
        sleep 0.002;
        push @turns, longest_turn();
    }
    return { turns => \@turns, map { $_ => [] } qw(took idle snapshot slice) };
}

1;
