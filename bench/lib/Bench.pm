# Common parts of the benchmarks: the servers that are compared, and how figures are recorded and printed.
package Bench;

use strict;
use warnings;

use Cwd qw(abs_path);
use Exporter 'import';
use File::Basename qw(dirname);
use POSIX qw(strftime);

use lib dirname(__FILE__) . '/../../t/lib';

use Test::Memstat::Proc qw(read_file);
use Test::Memstat::Server;

our @EXPORT_OK = qw(budget budgets headline headlines measured_with median processors quartiles quick section server
    spread table wrapped);

# --- how much is measured ---

# Returns the first of two values, or the second in a quick run (BENCH_QUICK), which only checks that
# everything works.
sub quick {
    my ($whole, $quick) = @_;
    return $ENV{BENCH_QUICK} ? $quick : $whole;
}

# Returns the number of processors of this machine.
sub processors { return scalar(() = (read_file('/proc/cpuinfo') // '') =~ /^processor\s*:/mg) }

# --- servers ---

# The configuration for the measured requests. HTTP/2 has a separate port.
my $HTTP = <<'END';
limit_req_zone $binary_remote_addr zone=known:1m rate=1000000r/s;
limit_req_zone $connection_requests zone=new:64k rate=1000000r/s;
keepalive_requests 100000000;
access_log off;
server {
    listen 127.0.0.1:$TEST_NGINX_PORT_1 http2;
    location /return { return 200 "ok"; }
}
END

my $CONFIG = <<'END';
location /return { return 200 "ok"; }
location /file { root $TEST_NGINX_SERVER_ROOT/html; }
location /proxy { proxy_pass http://127.0.0.1:$TEST_NGINX_SERVER_PORT/return; }
location /limited { limit_req zone=known burst=100000 nodelay; alias $TEST_NGINX_SERVER_ROOT/html/file; }
location /slab { limit_req zone=new burst=100000 nodelay; alias $TEST_NGINX_SERVER_ROOT/html/file; }
END

# The configuration with Lua, unless lua => 0.
my $LUA = 'location /lua { content_by_lua_block { ngx.print("ok") } }';

# Starts a server: "absent" (without the module), "off" (with it, without hooks) or "on". More sections are
# those of Test::Memstat::Server; config and http_config are added to the common ones.
sub server {
    my ($kind, %more) = @_;
    die "a server is absent, off or on\n" unless $kind =~ /^(?:absent|off|on)$/;
    my @config = ($CONFIG, $more{config} // '');
    push @config, $LUA if $more{lua} // 1;
    push @config, 'location /memstat { ' . ($kind eq 'absent' ? 'return 404' : 'memstat') . '; }';
    return Test::Memstat::Server->new(
        log_level  => 'warn',
        user_files => ">>> file\nok",
        %more,
        module      => $kind eq 'absent' ? 0 : 'first',
        main_config => ($more{main_config} // '') . ($kind eq 'off' ? "\nmemstat_hooks off;" : ''),
        http_config => $HTTP . ($more{http_config} // ''),
        config      => join("\n", @config),
    )->start;
}

# --- figures ---

sub quartiles {
    my @sorted = sort { $a <=> $b } @_;
    return map { between(\@sorted, $_) } 0.25, 0.5, 0.75;
}

sub median { return (quartiles(@_))[1] }

# Returns the value at a fraction of a sorted list, interpolated between its two neighbours.
sub between {
    my ($sorted, $part) = @_;
    my $place = $#$sorted * $part;
    my ($low, $high) = map { $sorted->[$_] } int $place, POSIX::ceil($place);
    return $low + ($high - $low) * ($place - int $place);
}

# Returns the median and the quartiles as cells of a table.
sub spread {
    my ($format, @values) = @_;
    my ($low, $median, $high) = map { sprintf $format, $_ } quartiles(@values);
    return ($median, "$low to $high");
}

# Returns a table in Markdown, from its head and its rows.
sub table {
    my ($head, @rows) = @_;
    my $rule = [ map { '---' } @$head ];
    return join '', map { '| ' . join(' | ', @$_) . " |\n" } $head, $rule, @rows;
}

# --- figures with a budget ---

# The budgets and their reasons. A figure may have its own limit (see budget).
my @BUDGETS = (
    {
        key => 'request', name => 'request',
        what => 'instructions of a request, hooks on / without the module', most => 1.010,
        format => '%.4f', why => 'A load test cannot see 1 %: two equal servers differ by more.',
    },
    {
        key => 'lua', name => 'Lua loop',
        what => "instructions of a Lua loop, with the module's own / without", format => '%.4f',
        most_text => '1.02 × revision 0bd8e2a',
        why => 'Handing each call on takes 6 instructions and cannot be avoided, so a loop that only allocates'
            . ' has no small limit. Later additions may take 2 % of such a loop.',
    },
    {
        key => 'turn', name => 'turn', what => 'longest turn of an event loop during an answer, p99, ms', most => 1,
        format => '%.2f', why => 'Every connection of a worker waits for the turn. A slice is 0.3 ms; work that cannot'
            . ' be cut may add twice as much.',
    },
    {
        key => 'answer', name => 'answer', what => 'an answer of 4 workers, p50, ms', most => 2.4, format => '%.2f',
        why => 'Revision 0bd8e2a took 2.16; a tenth more is noise. It asked four processes and replied with'
            . ' 22 KB. Now the master is a fifth process, and the reply has 38 KB, which explains a part of'
            . ' what exceeds the budget; reading the mappings takes most of the rest.',
    },
    {
        key => 'memory', name => 'memory', what => "KB of the module in a worker", most => 512, format => '%.1f',
        why => 'A twentieth of a worker of the demo, which has 11 MiB in RAM.',
    },
    {
        key => 'shared', name => 'shared memory', what => 'KB of shared memory in RAM for a process', most => 64, format => '%.1f',
        why => 'A slot is 32 KB; the counters of zones may take as much.',
    },
);
my %BUDGETS = map { $_->{key} => $_ } @BUDGETS;

# Records a figure for the end of BENCHMARKS.md, under the budget with this key. Options: most (its own
# limit), headline ([its position among the rows at the top, its name there]). A part that is run alone
# prints its records to standard error.
sub budget {
    my ($key, $what, $figure, %with) = @_;
    my $budget = $BUDGETS{$key} // die "no budget $key\n";
    my $format = $budget->{format};
    my $most   = $with{most} // $budget->{most};
    my $by     = sprintf $format, abs $figure - $most;
    my $is_met = $figure <= $most ? 'yes' : "**not met, by $by**";
    my @cells  = ((map { sprintf $format, $_ } $figure, $most), $is_met);
    record($key, $what, @cells);
    record('headline', @{ $with{headline} }, @cells) if $with{headline};
    return;
}

# Records a row at the top that has no budget.
sub headline {
    my ($place, $what, $figure) = @_;
    record('headline', $place, $what, $figure, '', '');
    return;
}

sub record {
    my $to = $ENV{BENCH_FIGURES} // '/dev/stderr';
    open my $out, '>>', $to or die "cannot write figures: $!\n";
    print $out join("\t", @_), "\n";
    close $out or die "cannot write figures: $!\n";
    return;
}

# Returns the records in a file, by their first cell.
sub records {
    my ($path) = @_;
    my %records;
    for (split /\n/, read_file($path) // '') {
        my ($key, @cells) = split /\t/, $_, -1;
        push @{ $records{$key} }, \@cells;
    }
    return \%records;
}

# Returns the first section: the figures that readers need first.
sub headlines {
    my ($path) = @_;
    my @rows = sort { $a->[0] <=> $b->[0] } @{ records($path)->{headline} // [] } or return '';
    return "## At a glance\n\n"
        . table([ 'cost', 'figure', 'budget', 'met' ], map { [ @$_[ 1 .. 4 ] ] } @rows)
        . "\nThe sections below say how each was measured, [the last one](#budgets) why each budget is what it is.\n";
}

# Returns the last section: the budgets with their reasons, and every figure that has one.
sub budgets {
    my ($path) = @_;
    my $records = records($path);
    my @with = grep { $records->{ $_->{key} } } @BUDGETS or return '';
    my @reasons = map { [ $_->{name}, $_->{what}, $_->{most_text} // sprintf($_->{format}, $_->{most}), $_->{why} ] } @with;
    my @rows = map { my $budget = $_; map { [ $budget->{name}, @$_ ] } @{ $records->{ $_->{key} } } } @with;
    return "## Budgets\n\n" . table([ 'budget', 'limits', 'at most', 'why no more' ], @reasons)
        . "\nThe figures:\n\n" . table([ 'budget', 'of', 'figure', 'at most', 'met' ], @rows);
}

# Returns the head of a section, with the machine and the revision: each part can be measured separately.
sub section {
    my ($head) = @_;
    my ($nginx) = Test::Memstat::Configuration::nginx_version() =~ m{nginx/(\S+)};
    my $revision = `git describe --always --dirty 2>/dev/null` =~ s/\s+//gr || 'unknown';
    my ($processor) = read_file('/proc/cpuinfo') =~ /^model name\s*:\s*(.*?)\s*$/m;
    my ($system, undef, $release, undef, $machine) = POSIX::uname();
    my $text = sprintf 'Measured %s: revision %s, nginx %s, %s (%s, %d cores), %s %s.', strftime('%Y-%m-%d', gmtime),
        $revision, $nginx, $processor // 'an unknown processor', $machine, processors(), $system, $release;
    $text .= ' This was a quick run, which only shows that everything works.' if $ENV{BENCH_QUICK};
    return "$head\n\n" . wrapped($text) . "\n";
}

# Returns a sentence with the measuring programs.
sub measured_with {
    my ($valgrind) = `valgrind --version` =~ /valgrind-(\S+)/;
    my ($wrk) = `wrk -v 2>&1` =~ /^wrk (?:debian\/)?(\S+)/;
    return wrapped("Measured with valgrind $valgrind and wrk $wrk.");
}

# Breaks a paragraph into lines.
sub wrapped { return $_[0] =~ s/\s+/ /gr =~ s/ $//r =~ s/(.{1,106})(?: |$)/$1\n/gr }

1;
