# A zone as a program of its own reads it through the mapping of a process: see t/tools/slab.c.
package Test::Memstat::Zone;

use strict;
use warnings;

use Exporter 'import';
use Test::More ();

use Test::Memstat::Build qw(program);
use Test::Memstat::Proc qw(maps page_size read_file);

our @EXPORT = qw(agrees mapping mapping_rss zone_reading break_zone mend_zone);

# The shared mapping of a process that is the only one of its size, which is rounded up to pages.
sub mapping {
    my ($pid, $size) = @_;
    my $page = page_size();
    my $rounded = int(($size + $page - 1) / $page) * $page;
    my @found = grep { $_->{rights} eq 'rw-s' && $_->{size} == $rounded } maps($pid);
    die scalar(@found), " mappings of $rounded bytes in $pid\n" unless @found == 1;
    return $found[0];
}

# What the kernel says this process has touched of it.
sub mapping_rss {
    my ($pid, $size) = @_;
    my $from = sprintf '%x', mapping($pid, $size)->{from};
    my ($rss) = read_file("/proc/$pid/smaps") =~ /^0*$from-.*?^Rss:\s+(\d+) kB/ms
        or die "no Rss of $from in $pid\n";
    return $rss * 1024;
}

sub run {
    my ($pid, $size, @more) = @_;
    my @command = (program('slab'), $pid, mapping($pid, $size)->{from}, @more);
    open my $out, '-|', @command or die "cannot run @command: $!\n";
    my %reading = map { /^(\S+) (\d+)$/ ? ($1 => $2) : () } <$out>;
    close $out or die "@command failed\n";
    return \%reading;
}

sub zone_reading { return run(@_) }
sub break_zone   { return run(@_, 'break') }
sub mend_zone    { return run(@_, 'mend') }

# Passes when a zone of an answer has the pages and slots that the program finds in it.
sub agrees {
    my ($pid, $zone, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $expected = zone_reading($pid, $zone->{size});
    my %got;
    $got{"pages.$_"} = $zone->{pages}{$_} for qw(total used free free_runs largest_free_run);
    for my $size (keys %{ $zone->{slots} }) {
        $got{"slots.$size.$_"} = $zone->{slots}{$size}{$_} for qw(used free reqs fails);
    }
    return Test::More::is_deeply(\%got, $expected, $name);
}

1;
